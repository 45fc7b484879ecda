"""Masks of stored trials, and the weights that trials begin with."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import torch
from safetensors.torch import load_file
from torch import nn

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.experiment.masks import trial_of
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.masks import Mask
from pai_bench.results import Record, Store, bits
from pai_bench.results.bits import SAMPLE_SIZE, count_differences, mask_file, pack, read_mask_file
from pai_bench.support.registry import DATA, Plugin
from tests.report.records import altered


def wide(shape: tuple[int, ...], classes: int) -> nn.Module:
    """More weights than a record holds places."""
    layers = nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 700), nn.ReLU(), nn.Linear(700, classes)
    return nn.Sequential(*layers)


def swept(out: Path, **changes: Any) -> dict[str, Record]:
    keys: dict[str, Any] = {"criteria": ["snip"], "sparsities": [0.9], "seeds": 2, "epochs": 0}
    pb.run(pb.Sweep(**keys | changes), out=out)
    return {record.identity: record for record in Store(out)}


def of(records: dict[str, Record], seed: int = 1) -> Record:
    return next(one for one in records.values() if one.trial["criterion"] and one.trial["seed"] == seed)


def same(one: Mask, other: Mask) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_the_mask_of_a_trial_is_that_of_prune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And `pai-bench prune` with its seed writes both, from the same weights."""
    records = swept(tmp_path / "r")
    record = of(records)
    mask = pb.read_mask(tmp_path / "r", record.identity)
    assert same(mask, pb.read_mask(tmp_path / "r" / "trials" / f"{record.identity}.json"))
    assert same(mask, pb.read_mask(record))
    assert same(mask, pb.remake_mask(record))
    files = tmp_path / "m.safetensors", tmp_path / "w.safetensors"
    arguments = ["prune", "--model", "lenet", "--sparsity", "0.9", "--seed", "1", "-o", str(files[0])]
    assert main([*arguments, "--save-weights", str(files[1])]) == 0
    assert same(mask, Mask.load(files[0]))
    weights, written = pb.initial_weights("lenet", "digits", seed=1), load_file(files[1])
    assert weights.keys() == written.keys()
    assert all(torch.equal(weights[name], written[name]) for name in weights)
    first, zero = pb.initial_weights("lenet", "digits"), pb.initial_weights("lenet", "digits", seed=0)
    assert all(torch.equal(first[name], zero[name]) for name in first)
    other = pb.initial_weights("lenet", "digits", seed=2)
    assert not torch.equal(weights["fc1.weight"], other["fc1.weight"])
    model = pb.create_model("lenet", input_shape=(1, 28, 28), num_classes=10)
    model.load_state_dict(weights)
    batch = pb.load_data("digits")
    assert mask.apply_(model)(batch.normalised(batch.test.inputs[:2])).shape == (2, 10)


def test_the_dense_reference_keeps_everything(tmp_path: Path) -> None:
    dense = next(one for one in swept(tmp_path).values() if one.trial["criterion"] is None)
    mask = pb.read_mask(dense)
    assert mask.kept == mask.size == 430_500
    assert same(mask, pb.remake_mask(dense))


def test_whole_masks_of_large_networks_lie_beside_their_records(tmp_path: Path) -> None:
    record = of(swept(tmp_path, models=[wide]))
    file = tmp_path / "trials" / f"{record.identity}.mask.safetensors"
    assert file.is_file()
    assert "whole_mask" not in json.loads((tmp_path / "trials" / f"{record.identity}.json").read_text())
    mask = pb.read_mask(tmp_path, record.identity)
    assert mask.size == 784 * 700 + 7000 > SAMPLE_SIZE
    assert mask.kept == sum(layer.kept for layer in record.pruning.layers)
    assert count_differences(record.pruning.mask or "", {name: keep.numpy() for name, keep in mask.items()}) == 0
    content, places = file.read_bytes(), set(bits.positions(mask.size).tolist())
    outside = max(place for place in range(784 * 700) if place not in places)  # of the sample in the record
    first = 8 + int.from_bytes(content[:8], "little") + content_offset(content, record.pruning.layers[0].name)
    flipped = bytearray(content)
    flipped[first + outside // 8] ^= 128 >> outside % 8
    file.write_bytes(flipped)
    with pytest.raises(pb.UserError, match="its content is not that of its checksum"):
        pb.read_mask(tmp_path, record.identity)
    earlier = safetensors.numpy.load(bytes(flipped))  # has no checksum
    shapes = json.dumps({layer.name: layer.shape for layer in record.pruning.layers})
    file.write_bytes(safetensors.numpy.save(earlier, {"shapes": shapes}))
    with pytest.raises(pb.UserError, match="other numbers of connections than the record says"):
        pb.read_mask(tmp_path, record.identity)
    earlier = {name: 255 - packed for name, packed in earlier.items()}
    file.write_bytes(safetensors.numpy.save(earlier, {"shapes": shapes}))
    with pytest.raises(pb.UserError, match="the whole mask is of another trial, or damaged"):
        pb.read_mask(tmp_path, record.identity)
    file.write_bytes(safetensors.numpy.save(safetensors.numpy.load(content), {"shapes": shapes}))
    assert same(mask, pb.read_mask(tmp_path, record.identity))
    file.write_bytes(content[:-10])
    with pytest.raises(pb.UserError, match="cannot be read"):
        pb.read_mask(tmp_path, record.identity)
    file.unlink()  # as of a record of an earlier version
    with pytest.raises(pb.UserError, match=r"a sample of 524,288 of its 555,800 places.*remake_mask"):
        pb.read_mask(tmp_path, record.identity)
    store = Store(tmp_path)
    store.write(altered(record, whole_mask=b"x"))
    store.write(record)
    assert not file.exists()


def content_offset(content: bytes, name: str) -> int:
    """Where a tensor begins in a safetensors file, behind its header."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found: int = header[name]["data_offsets"][0]
    return found


@pytest.mark.slow
def test_a_mask_is_made_again_and_held_to_the_sample(tmp_path: Path) -> None:
    records = swept(tmp_path, models=["vgg-11-bn"], criteria=["magnitude:seed=3"], seeds=1, variants=["shuffle"])
    record = of(records, seed=0)
    (tmp_path / "trials" / f"{record.identity}.mask.safetensors").rename(tmp_path / "whole")
    found = pb.remake_mask(tmp_path, record.identity)
    assert {n: k.tolist() for n, k in list(read_mask_file((tmp_path / "whole").read_bytes()).items())[:2]} == {
        n: k.tolist() for n, k in list(found.items())[:2]
    }
    wrong = {name: keep.numpy() ^ (name == "fc.weight") for name, keep in found.items()}
    with pytest.raises(pb.UserError, match=r"differs from that of trial .* in [\d,]+ of 524,288 places: .*torch"):
        pb.remake_mask(altered(record, mask=pack(wrong)))


@pytest.mark.parametrize("model", ["resnet-20", "resnet-20-identity", "lenet"])
def test_a_trial_is_of_the_network_that_its_record_names(model: str, tmp_path: Path) -> None:
    """Results of the first version of resnet-20 are those of resnet-20-identity."""
    made = Runner(catalog := resolve(pb.Sweep(models=[model], sparsities=[0.5], seeds=1, epochs=0)))
    record = made.failure(catalog.trials[1], RuntimeError("not run"))
    again, _ = trial_of(record, None, "cpu")
    assert (again.model, again.identity) == (catalog.trials[1].model, record.identity)


def test_what_has_no_mask_says_why(tmp_path: Path) -> None:
    record = of(swept(tmp_path))
    with pytest.raises(pb.UserError, match="has no mask: it is failed"):
        pb.read_mask(altered(record, mask=None, status="failed"))
    with pytest.raises(pb.UserError, match="has no mask: it is one of a file of records"):
        pb.read_mask(altered(record, mask=None))
    with pytest.raises(pb.UserError, match="has no trial mine"):
        pb.read_mask(tmp_path, "mine")
    with pytest.raises(pb.UserError, match="is not the file of a trial"):
        pb.read_mask(tmp_path / "mask.safetensors")
    own = {**record.trial, "model": "mine@12345678"}
    with pytest.raises(pb.UserError, match=r"cannot be made again: unknown model .* must have a name here"):
        pb.remake_mask(dataclasses.replace(record, trial=own))
    changed = dataclasses.replace(record, trial={**record.trial, "seed": 5})
    with pytest.raises(pb.UserError, match="cannot be made again"):
        pb.remake_mask(changed)
    with pytest.raises(pb.UserError, match="seed -1"):
        pb.initial_weights("lenet", "digits", seed=-1)


@pytest.mark.parametrize("content", [b"", b"12", b"\xff" * 20, b"\x02" + bytes(7) + b"{}"])
def test_damaged_files_of_masks(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"mask|JSON|Expecting|codec"):
        read_mask_file(content)


def test_a_whole_mask_comes_back_bit_for_bit() -> None:
    shapes = {"a": (700, 751), "b": (3, 5, 7), "c": ()}
    mask = {name: torch.rand(shape).numpy() < 0.3 for name, shape in shapes.items()}
    content = mask_file(mask)
    assert content is not None
    assert len(content) < 1.01 * 700 * 751 / 8 + 500
    found = read_mask_file(content)
    assert list(found) == list(mask)
    assert all((found[name] == mask[name]).all() and found[name].shape == shapes[name] for name in mask)
    assert mask_file({"a": mask["b"]}) is None


def test_a_mask_of_few_examples_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than a batch of the default protocol has, which is not the trial's."""

    def few(_data_dir: Path | None = None) -> pb.DataSet:
        split = (torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3)
        return pb.DataSet("few", split, split)  # type: ignore[arg-type]

    monkeypatch.setitem(DATA._plugins, "few", Plugin("few", few, "here"))
    keys: dict[str, Any] = {"data": ["few"], "models": ["lenet-300-100"], "criteria": ["snip"], "sparsities": [0.5]}
    frame = pb.run(pb.Sweep(**keys, seeds=1, epochs=1, batch_size=10, score_batch=6, device="cpu"), out="r")
    (name,) = frame[frame.criterion == "snip"].identity
    assert pb.remake_mask("r", name)["fc1.weight"].equal(pb.read_mask("r", name)["fc1.weight"])
