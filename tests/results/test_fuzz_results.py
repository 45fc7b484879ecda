"""Mutated records and masks, read through the public ways: an error that names them, or what was stored."""

import base64
import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.results import Layer, Record, Store, bits
from pai_bench.results.stored import with_checksum
from tests.report.records import altered, drawn, fields_of

COUNT = 1000
BATCH = 100

OTHERS: list[Any] = [
    *(None, "", "x", "\ud800", "a\0b", "x" * 300, "<script>", True, 0, 1, -1, 3.5, 1e-320, 1e308, 2**63, 10**400),
    *(float("inf"), float("nan"), [], {}, [[]], [None], {"a": {}}, [1] * 50, {"name": "x"}, [["a", 1]]),
]
"""Values in place of others, of other types or out of range."""


@pytest.fixture(autouse=True)
def _quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    # whatever draws is called; laying out and writing takes most of the time and sees none of the records
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: None)
    monkeypatch.setattr(Figure, "savefig", lambda _figure, file, **_: file.write(b""))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON document with every key of it."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from places(value[key])


def other_value(draw: random.Random, document: dict[str, Any]) -> None:
    """Put another value, that of another place, more or nothing in one place of a document, or nest its value."""
    known = list(places(document))
    container, key = draw.choice(known)
    way = draw.randrange(6)
    if way < 2:
        container[key] = copy.deepcopy(draw.choice(OTHERS))
    elif way == 2:
        other, place = draw.choice(known)
        container[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(container[key])
    elif way == 3:
        del container[key]
    elif way == 4:
        container[key] = draw.choice([[container[key]], {"a": container[key]}, [container[key]] * 2])
    elif isinstance(container, dict):
        container[draw.choice(["schema", "checksum", "x", "whole_mask", "shape"])] = draw.choice(OTHERS)
    else:
        container *= 2


def other_bytes(draw: random.Random, content: bytes) -> bytes:
    """Flip, cut, leave out, repeat or put in some bytes."""
    found, way = bytearray(content), draw.randrange(5)
    start, length = draw.randrange(len(found)), draw.choice([1, 1, 2, 8, 100])
    if way == 0:
        for _ in range(draw.choice([1, 1, 2, 20])):
            found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    elif way == 1:
        del found[start:]
    elif way == 2:
        del found[start : start + length]
    elif way == 3:
        found[start:start] = found[start : start + length]
    else:
        found[start : start + draw.choice([0, length])] = draw.randbytes(length)
    return bytes(found)


def same(one: pb.Mask, other: pb.Mask) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def mask_or_error(read: Callable[[], pb.Mask]) -> pb.Mask | None:
    """A mask; None for a `UserError` of one line."""
    try:
        return read()
    except pb.UserError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return None


@pytest.mark.slow
@pytest.mark.parametrize("with_checksum", [True, False])
def test_mutated_records(with_checksum: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of them as this version writes them, half as earlier ones did, without a checksum."""
    draw = random.Random(with_checksum)
    refused = read = 0
    for batch in range(COUNT // 2 // BATCH):
        store = Store(f"r{batch}", create=True)
        intact = [drawn(name, 0.5 if name else 0.0, seed, 0.9) for name in ("snip", None) for seed in range(3)]
        mutated = [drawn(draw.choice(["snip", "er", None]), 0.5, 10 + i, 0.8) for i in range(BATCH)]
        mutated = [one if one.trial["criterion"] else drawn(None, 0.0, one.trial["seed"], 0.8) for one in mutated]
        masks = {}
        for record in (*intact, *mutated):
            store.write(record)
            masks[record.identity] = pb.read_mask(record)
        for record in mutated:
            path = store.trials / f"{record.identity}.json"
            if draw.random() < 0.6:
                document = json.loads(path.read_text()) if with_checksum else fields_of(path.read_text())
                other_value(draw, document)
                path.write_text(json.dumps(document))
            else:
                text = path.read_text() if with_checksum else json.dumps(fields_of(path.read_text()))
                path.write_bytes(other_bytes(draw, text.encode()))
        found = list(store)
        rows = set(pb.read_results(store.path).identity)
        assert rows == {record.identity for record in found} >= {record.identity for record in intact}
        assert len(rows) + len(store.left_out) == len(intact) + BATCH
        assert main(["report", str(store.path), "-o", f"x{batch}.md"]) == 0
        assert Path(f"x{batch}.md").read_text().count("could not be read and is left out") == len(store.left_out)
        for record in (*intact, *mutated):
            got = mask_or_error(lambda path=store.path, record=record: pb.read_mask(path, record.identity))  # type: ignore[misc]
            if got is not None and (with_checksum or record in found):
                assert same(got, masks[record.identity])
            assert got is not None or record not in intact
            assert got is None or record.identity in rows
        if with_checksum:  # what is read is what was written
            assert all(record in (*intact, *mutated) for record in found)
        refused, read = refused + len(store.left_out), read + len(rows) - len(intact)
    assert refused > 0.5 * COUNT / 2
    assert read or with_checksum
    assert "Traceback" not in capsys.readouterr().err


def large(seed: int) -> Record:
    """A record of a mask that lies beside it, with that."""
    shapes = {"a": (bits.SAMPLE_SIZE // 512, 513), "b": (3, 5)}
    random_bits = np.random.default_rng(seed)
    mask = {name: random_bits.random(shape) < 0.5 for name, shape in shapes.items()}
    layers = tuple(
        Layer(name=name, size=keep.size, kept=int(keep.sum()), shape=keep.shape) for name, keep in mask.items()
    )
    record = drawn("snip", 0.5, seed, 0.9, layers=layers, mask=bits.pack(mask))
    return altered(record, whole_mask=bits.mask_file(mask))


def other_header(draw: random.Random, content: bytes) -> bytes:
    """Another value in the header of a safetensors file, or in the shapes that its metadata hold."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if draw.random() < 0.5:
        shapes = json.loads(header["__metadata__"]["shapes"])
        if draw.random() < 0.2:
            shapes = draw.choice(OTHERS)
        else:
            other_value(draw, shapes)
        header["__metadata__"]["shapes"] = json.dumps(shapes)
        if draw.random() < 0.5:
            header["__metadata__"].pop("checksum")
    else:
        other_value(draw, header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


@pytest.mark.slow
def test_mutated_masks(capsys: pytest.CaptureFixture[str]) -> None:
    """Half of them in files of their own, half in records."""
    draw = random.Random(0)
    store = Store("r", create=True)
    intact, record = large(1000), large(1001)
    store.write(intact)
    store.write(record)
    file = store.mask_of(record.identity)
    content, mask = file.read_bytes(), pb.read_mask("r", record.identity)
    beside, refused = pb.read_mask("r", intact.identity), 0
    for i in range(COUNT // 2):
        way = draw.random()
        changed = other_header(draw, content) if way < 0.5 else other_bytes(draw, content)
        if i == 0:
            changed = store.mask_of(intact.identity).read_bytes()  # of another trial
        file.write_bytes(changed)
        got = mask_or_error(lambda: pb.read_mask("r", record.identity))
        assert got is None or same(got, mask), i
        refused += got is None
        if i % BATCH == 0:
            assert same(pb.read_mask("r", intact.identity), beside)
            assert len(pb.read_results("r")) == 2
            assert main(["report", "r", "-o", "x.md"]) == 0
    small = [drawn("snip", 0.5, seed, 0.9) for seed in range(BATCH)]
    for i in range(COUNT // 2):
        record = small[i % BATCH]
        assert record.pruning.mask is not None
        if draw.random() < 0.5:
            text = other_bytes(draw, record.pruning.mask.encode()).decode("utf-8", "replace")
        else:
            text = base64.b64encode(other_bytes(draw, base64.b64decode(record.pruning.mask))).decode()
        got = mask_or_error(lambda: pb.read_mask(altered(record, mask=text)))  # noqa: B023
        assert got is None or same(got, pb.read_mask(record)), i
        refused += got is None
        # as an earlier version wrote it, and as if this one had
        fields = fields_of(record.to_json()) | {"mask": text}
        path = store.trials / f"{record.identity}.json"
        path.write_text(json.dumps(fields if i % 2 else with_checksum(fields)))
    assert refused > 0.9 * COUNT
    assert len(pb.read_results("r")) == 2 + BATCH
    assert main(["report", "r", "-o", "x.md"]) == 0
    assert "Traceback" not in capsys.readouterr().err
