"""The stage `speed`: which cells there are and in which order, what is told of them, and whether `auto` chose well."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.floors import Pictures, usual_steps
from benchmarks.gpu import engine, speed
from benchmarks.gpu.archive import Archive
from benchmarks.gpu.engine import Cell, Speed
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.stage import Context, Finding, Piece, SkippedError, work

CPU = torch.device("cpu")
LENET = speed.TINY[1]


def context(tmp_path: Path, *, rehearse: bool = True) -> Context:
    """What the stage is given."""
    ledger = Ledger(Archive(tmp_path / "speed.tar"))
    return Context("speed", CPU, rehearse, time.monotonic() + 1000, ledger, {"commit": "abc"}, run="1")


def found(piece: Piece) -> Finding:
    """What a piece finds."""
    finding = piece.run()
    assert isinstance(finding, Finding)
    return finding


def test_the_first_cells_have_something_of_everything(tmp_path: Path) -> None:
    pieces = list(speed.pieces(context(tmp_path, rehearse=False)))
    assert len({one.entry.key for one in pieces}) == len(pieces)
    cells = [one for one in pieces if one.group not in ("peak", "auto") and one.name != speed.LOADER]
    first = cells[: speed.MOST]
    own = sum(len(network.cells) for network in speed.NETWORKS)
    assert own <= speed.MOST
    autos = [pieces.index(one) for one in pieces if one.group == "auto"]
    for place in autos:  # a choice is judged by what was measured just before it
        judged = next(one for one in speed.NETWORKS if one.name == pieces[place].name)
        before = pieces[place - len(judged.cells) : place]
        assert [(one.group, one.name) for one in before] == [(judged.name, str(cell)) for cell in judged.cells]
    names = {one.group for one in first}
    assert names == {"resnet-20", "vgg-16-bn", "resnet-18", "lenet-300-100", "lenet-5-caffe", "lstm-s"}
    resnet = [one.name for one in first if one.group == "resnet-20"]
    assert resnet[:5] == [
        "1 network, fp32, contiguous, eager",
        "1 network, fp32, channels-last, eager",
        "1 network, fp32, channels-last, recorded",
        "1 network, tf32, channels-last, recorded",
        "1 network, bf16, channels-last, recorded",
    ]
    assert {"64 networks, branches, bf16, channels-last, recorded", "16 networks, stacked, bf16, recorded"} < set(
        resnet
    )
    assert {"256 networks, stacked, fp32, recorded"} < {one.name for one in first if one.group == "lenet-300-100"}
    for network in ("resnet-20", "vgg-16-bn", "resnet-18"):  # in the end
        counts = {one.name.partition(" ")[0] for one in cells if one.group == network and "branches" in one.name}
        assert counts == {"4", "16", "64"}


def test_what_is_told_of_a_cell(tmp_path: Path) -> None:
    given = context(tmp_path)
    pieces = [one for one in speed.pieces(given) if one.group == LENET.name or one.entry.title == "peak: fp32"]
    work(given, pieces)
    values = speed.measured(given, LENET.name)
    alone = values["1 network, fp32, channels-last, eager"]
    assert alone[speed.RATE] == pytest.approx(1 / alone["seconds"])
    assert alone["images per second"] == pytest.approx(20 / alone["seconds"])
    peak = speed.measured(given, "peak")["fp32"][speed.PEAK]
    flops = 3 * 20 * 2 * (64 * 300 + 300 * 100 + 100 * 10)  # by hand
    assert alone["share of peak"] == pytest.approx(flops / alone["seconds"] / peak / 1e12)
    assert alone["times a DataLoader"] == pytest.approx(values[speed.LOADER]["seconds"] / alone["seconds"])
    two = values["2 networks, stacked, fp32, eager"]
    assert two["times the fastest alone"] == pytest.approx(alone["seconds"] / two["seconds"])


def test_the_choice_of_auto_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {1: 1.0, 2: 0.5, 4: 8.0}

    def measure(_model: Any, _data: Any, _protocol: Any, cell: Cell, **_options: Any) -> Speed:
        return Speed(seconds[cell.count], None)

    monkeypatch.setattr(engine, "speed", measure)
    given = context(tmp_path)
    pieces = list(speed.pieces(given))
    (auto,) = [one for one in pieces if one.group == "auto"]
    monkeypatch.setattr(engine, "chosen", lambda *_given, **_options: Cell(4, "stacked", recorded=False))
    with pytest.raises(SkippedError, match="no cell was measured"):
        auto.run()
    work(given, [one for one in pieces if one.group == LENET.name])
    finding = found(auto)
    assert finding.problem == "times as slow is 16, above 10"
    assert finding.values["fastest"] == "2 networks, stacked, fp32, eager"
    monkeypatch.setattr(engine, "chosen", lambda *_given, **_options: Cell(2, "stacked", recorded=False))
    assert found(auto).problem is None


def test_auto_is_asked_itself() -> None:
    data = engine.random_images((1, 8, 8), 100)
    protocol = engine.protocol(batch_size=20)
    cell = engine.chosen(engine.built_once("lenet-300-100", (1, 8, 8)), data, protocol, CPU, count=4)
    assert cell.count in (1, 2, 4)
    assert cell.way == ("alone" if cell.count == 1 else "stacked")
    assert (cell.precision, cell.recorded) == ("fp32", False)


def test_a_cell_without_memory_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_given: Any, **_options: Any) -> Speed:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "speed", short)
    with pytest.raises(SkippedError, match="no memory for 2 networks"):
        speed.cell_finding(context(tmp_path), LENET, Cell(2, "stacked", recorded=False))


def test_a_run_has_a_largest_number_of_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MOST", 1)
    monkeypatch.setattr(engine, "speed", lambda *_given, **_options: Speed(1.0, None))
    given = context(tmp_path)
    work(given, [one for one in speed.pieces(given) if one.group == LENET.name and one.name != speed.LOADER])
    assert [entry.status for entry in given.ledger.entries.values()] == ["measured", "skipped"]
    given.run = "2"
    work(given, [one for one in speed.pieces(given) if one.group == LENET.name and one.name != speed.LOADER])
    assert [entry.status for entry in given.ledger.entries.values()] == ["measured", "measured"]


def test_the_usual_loop_trains() -> None:
    data = engine.random_images((3, 8, 8), 60)
    pictures = Pictures(*data.train, augment=True)
    image, target = pictures[7]
    assert (image.shape, target) == ((3, 8, 8), 7)
    model = pb_model()
    before = [weight.clone() for weight in model.parameters()]
    steps = usual_steps(pictures, model, 20, CPU, workers=0)
    for _ in range(4):  # three are an epoch
        next(steps)
    assert all(not torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def pb_model() -> torch.nn.Module:
    """A small network for images of three colours."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))


def test_pictures_without_augmentation_are_the_images() -> None:
    data = engine.random_images((1, 8, 8), 20)
    image, _ = Pictures(*data.train, augment=False)[3]
    assert torch.allclose(image * 0.25 + 0.5, data.train.inputs[3].float() / 255, atol=1e-6)
