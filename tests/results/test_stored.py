"""Results are read as they were written, or named: odd texts and numbers, checksums, what is no file of a result."""

import dataclasses
import json
import lzma
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.experiment import stages
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.results import BenchmarkResult, Collapse, Cost, Store, UnstorableError, archive, bits
from pai_bench.results.configurations import check_settings
from pai_bench.results.stored import LONGEST, with_checksum
from tests.cli.test_odd_input import SMALL
from tests.experiment.test_runner import blobs, sweep
from tests.report.records import altered, drawn, fields_of
from tests.report.test_damage import benchmark, collapse, cost

LINE = [*SMALL, "--workers", "1", "--lanes", "1"]


def changed(path: Path, **changes: Any) -> None:
    """Change fields of a file, and leave its checksum."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# what is written


def test_a_byte_that_is_no_utf8_in_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = os.fsdecode(b"r\xff")
    assert main(["run", *LINE, "--out", out]) == 0
    records = list(Store(out))
    assert len(records) == len(pb.read_results(out)) == 2
    assert r"r\udcff" in (records[0].provenance.command or "")
    monkeypatch.setattr(Runner, "run_together", None)  # nothing runs again
    assert main(["run", *LINE, "--out", out]) == 0
    assert not list(Path(out, "trials").glob("*.damaged"))
    assert main(["report", out]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_odd_values_are_written_as_plain_ones() -> None:
    odd: dict[str, Any] = {
        "error": "half \ud800",
        "test_accuracy": np.float32(0.5),
        "test_loss": float("nan"),
        "train_seconds": torch.tensor(2.5),
        "score_seconds": np.float64("inf"),
        "connected": np.bool_(True),
        "score_peak_bytes": np.int64(7),
        "first_cut": "layer\udcff",
    }
    record = drawn("snip", 0.5, 0, 0.9, **odd, environment={"processor": "a cpu\udcfe"})
    store = Store("r", create=True)
    store.write(record)
    found = store.get(record.identity)
    expected = {
        "error": "half \\ud800",
        "test_accuracy": 0.5,
        "test_loss": None,
        "train_seconds": 2.5,
        "score_seconds": None,
        "connected": True,
        "score_peak_bytes": 7,
        "first_cut": "layer\\udcff",
    }
    assert {name: found.content()[name] for name in odd} == expected
    assert found.environment.processor == "a cpu\\udcfe"


@pytest.mark.parametrize(
    "changes",
    [
        {"test_accuracy": float("nan")},
        {"test_loss": 1e305},
        {"epochs": object()},
        {"identity": "another"},
        {"error": "x" * LONGEST},
        {"trial": {**drawn("snip", 0.5, 0, 0.9).trial, "seed": 5}},
    ],
)
def test_what_could_not_be_read_again_is_not_written(changes: dict[str, Any]) -> None:
    store = Store("r", create=True)
    store.write(whole := drawn("snip", 0.5, 0, 0.9))
    with pytest.raises(UnstorableError, match="could not be read again, and is not stored"):
        store.write(altered(whole, **changes))
    assert list(store) == [whole]
    with pytest.raises(UnstorableError):
        store.write(dataclasses.replace(cost(), seconds=float("nan")))
    with pytest.raises(UnstorableError):
        store.write(dataclasses.replace(collapse(), size=0))
    with pytest.raises(UnstorableError):
        store.write(dataclasses.replace(benchmark(), seconds=-1.0))


def test_a_result_as_long_as_is_read_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    record, store = drawn("snip", 0.5, 0, 0.9), Store("r", create=True)
    longest = len(record.to_json())
    monkeypatch.setattr("pai_bench.results.folder.LONGEST", longest)
    store.write(record)
    assert store.read(record.identity) == record
    monkeypatch.setattr("pai_bench.results.folder.LONGEST", longest - 1)
    with pytest.raises(UnstorableError, match=f"it has more than {longest - 1:,} bytes"):
        store.write(record)


def test_options_and_settings_of_any_size_are_stored() -> None:
    """Seeds of criteria go up to 2**63; of how a network is trained, no more is asked than that it is read again."""
    keys: dict[str, Any] = {"criteria": ["random:seed=6148914691236517205"], "weight_decay": 1e-301}
    frame = pb.run(sweep(seeds=1, epochs=1, **keys), out="r")
    assert sorted(frame.status) == ["done", "done"]
    assert len(pb.read_results("r")) == 2


def test_a_trial_whose_result_cannot_be_stored_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = stages.final_test

    def none(inputs: Any, network: Any, history: Any) -> tuple[float, float]:
        return evaluate(inputs, network, history) if network.trial.criterion else (0.0, float("nan"))

    monkeypatch.setattr(stages, "final_test", none)
    frame = pb.run(sweep(seeds=1, epochs=1), out="r")
    assert dict(zip(frame.criterion, frame.status, strict=True)) == {
        "dense": "failed",
        "snip": "done",
        "random": "done",
    }
    assert "could not be read again" in frame.error[0]
    assert len(pb.read_results("r")) == 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seeds": [2**62 + 1]}, "seed 4611686018427387905"),
        ({"sparsities": [1e-310]}, "sparsity 1e-310"),
        ({"label_noise": 1e-301}, "label_noise 1e-301"),
        ({"data": [dataclasses.replace(blobs(), name="a\udcff")]}, "data 'a\\\\udcff'"),
    ],
)
def test_settings_that_no_record_can_hold_are_refused_before_anything_runs(changes: Any, named: str) -> None:
    with pytest.raises(pb.UserError, match=rf"could not be stored: {named}; texts must be Unicode, numbers 0 or"):
        resolve(sweep(**changes))


def test_all_values_outside_of_their_ranges_are_named() -> None:
    trial = {**drawn("snip", 0.5, 0, 0.9).trial, "seed": -1, "score_batch": 0, "sparsity": 1}
    with pytest.raises(pb.UserError, match="trial x could not be stored: seed -1, score_batch 0, sparsity 1;"):
        check_settings("x", trial)


class Odd(nn.Module):
    """A network whose layers have names that no file can hold."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.add_module("a\udcff\n", nn.Linear(shape[0], classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.get_submodule("a\udcff\n")(x)
        return found


def odd(shape: tuple[int, ...], classes: int) -> nn.Module:
    """`Odd`."""
    return Odd(shape, classes)


def test_odd_names_of_layers() -> None:
    pb.run(sweep(models=[odd], seeds=1, epochs=0), out="r")
    for record in Store("r"):
        assert [layer.name for layer in record.pruning.layers] == ["a\\udcff\n.weight"]
        assert list(pb.read_mask(record)) == ["a\\udcff\n.weight"]
    large = np.random.default_rng(0).random(bits.SAMPLE_SIZE + 1) < 0.5
    content = bits.mask_file({"a\udcff": large})
    assert content is not None
    assert (bits.read_mask_file(content)["a\\udcff"] == large).all()
    with pytest.raises(pb.UserError, match="the mask cannot be written"):
        pb.Mask({"a\udcff": torch.ones(2, dtype=torch.bool)}).save("m.safetensors")


# what is read


def test_a_result_that_was_changed_is_named_and_set_aside(caplog: pytest.LogCaptureFixture) -> None:
    store = Store("r", create=True)
    store.write(intact := drawn("snip", 0.5, 0, 0.9))
    store.write(record := drawn("snip", 0.5, 1, 0.9))
    path = store.trials / f"{record.identity}.json"
    text = path.read_text()
    earlier = fields_of(text)
    assert json.loads(text)["checksum"] == with_checksum(earlier)["checksum"]
    damages = {
        "checksum": json.dumps(json.loads(text) | {"test_loss": 0.25}),
        "settings": json.dumps(earlier | {"trial": earlier["trial"] | {"seed": 2}}),  # of a file without a checksum
    }
    for why, damage in damages.items():
        path.write_text(damage)
        assert list(store) == [intact]
        with pytest.raises(pb.UserError, match=why):
            pb.read_mask(path)
        assert path.exists()
        assert store.read(record.identity) is None
        assert not path.exists()
        assert caplog.records[-1].getMessage().startswith(f"{path} is damaged (its ")
        assert why in caplog.records[-1].getMessage()
    for whole in (text, json.dumps(earlier), json.dumps(json.loads(text), sort_keys=True)):
        path.write_text(whole)
        assert store.read(record.identity) == record
        assert path.read_text() == whole


def test_other_results_are_held_to_their_names_and_checksums() -> None:
    store = Store("r", create=True)
    store.write(cost())
    store.write(collapse())
    store.write(benchmark())

    def count() -> list[int]:
        return [
            len(found) for found in (store.read_all(Cost), store.read_all(Collapse), store.read_all(BenchmarkResult))
        ]

    assert count() == [1, 1, 1]
    paths = [next((store.path / folder).glob("*.json")) for folder in ("costs", "collapse", "benchmarks")]
    for path in paths:
        shutil.copy(path, path.with_name("copy-of-another.json"))
    assert count() == [1, 1, 1]
    assert all("not those that the file is named by" in why for why in store.left_out.values())
    for path in paths:
        changed(path, schema=0)
    assert count() == [0, 0, 0]
    assert all("checksum" in store.left_out[path.relative_to("r").as_posix()] for path in paths)


def test_a_file_of_records_holds_no_damaged_one_and_has_checksums_of_its_own() -> None:
    store = Store("r", create=True)
    for seed in range(4):
        store.write(drawn("snip", 0.5, seed, 0.9))
    first, second, third, _ = sorted(store.trials.glob("*.json"))
    changed(first, test_loss=0.25)
    second.write_text(json.dumps(fields_of(second.read_text())))
    changed(third, error=float("nan"))
    assert archive.pack(store.path, Path("a.jsonl.xz")) == 2
    lines = [json.loads(line) for line in lzma.decompress(Path("a.jsonl.xz").read_bytes()).splitlines()]
    assert ["checksum" in line["content"] for line in lines] == [False, True]
    assert len(list(Store("a.jsonl.xz"))) == 2
    lines[1]["content"]["test_loss"] = 0.25
    with lzma.open("a.jsonl.xz", "wt") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in lines)
    assert len(list(left := Store("a.jsonl.xz"))) == 1
    assert "checksum" in next(iter(left.left_out.values()))
