"""Disconnected networks in sweeps: flagged, not trained unless asked for, and reported."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.execution import run_catalog
from pai_bench.experiment.resolve import resolve
from pai_bench.report.figures import accuracy as figures
from pai_bench.report.page import write_report
from pai_bench.report.summary import comparisons, share
from pai_bench.results import Record, Store, as_frame
from pai_bench.scoring import MaskedModel
from tests.experiment.test_runner import blobs, sweep
from tests.report.records import fields_of


@dataclass(frozen=True)
class Starve(pb.Criterion):
    """Keeps connections of the first layer alone."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
        return {name: w * 0 + (name == "1.weight") for name, w in model.weights().items()}


def records(**changes: object) -> list[Record]:
    return run_catalog(resolve(sweep(criteria=[Starve()], seeds=1, **changes)), "r")


def test_a_disconnected_network_is_not_trained_and_says_why() -> None:
    dense, cut = records()
    assert (dense.pruning.connected, dense.pruning.effective_sparsity, dense.pruning.dead_layers, dense.status) == (
        True,
        0,
        (),
        "done",
    )
    assert (cut.pruning.connected, cut.pruning.effective_sparsity, cut.status) == (False, 1, "disconnected")
    assert cut.pruning.dead_layers == ("1.weight", "3.weight")
    assert cut.pruning.first_cut == "3.weight"
    assert cut.error == "no path from input to output, cut first in 3.weight; not trained"
    assert (cut.training.epochs, cut.training.images_per_second) == (0, None)
    assert [(layer.kept > 0, layer.effective) for layer in cut.pruning.layers] == [(True, 0), (False, 0)]


def test_its_accuracy_is_that_of_a_constant_predictor() -> None:
    _, cut = records()
    targets = blobs().test.targets
    shares = [int(targets.eq(c).sum()) / len(targets) for c in targets.unique()]
    assert any(cut.evaluation.test_accuracy == pytest.approx(part) for part in shares)


def test_it_is_trained_when_asked_for_and_only_then() -> None:
    records()
    _, trained = records(train_disconnected=True)
    assert (trained.status, trained.pruning.connected, trained.training.epochs, trained.error) == (
        "done",
        False,
        3,
        None,
    )
    _, kept = records()  # a trained one satisfies both
    assert kept == trained


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.flatten(1))
        return y if y.sum() > 0 else -y


def branching(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Branching()


def test_a_network_without_paths_of_its_own_is_trained_and_has_no_figures(caplog: pytest.LogCaptureFixture) -> None:
    found = run_catalog(resolve(sweep(models=[branching], criteria=["random"], seeds=1)), "r")
    assert [record.status for record in found] == ["done", "done"], [record.error for record in found]
    assert [(record.pruning.connected, record.pruning.effective_sparsity) for record in found] == [(None, None)] * 2
    assert "connectivity is not known" in caplog.text


def test_the_report_shows_both_sparsities_and_draws_along_either() -> None:
    run_catalog(resolve(sweep(criteria=["random", Starve()], sparsities=[0.5, 0.6], seeds=2)), "r")
    store = Store("r")
    direct, effective = (write_report(store, Path(f"{x}.md"), x=x).read_text() for x in ("direct", "effective"))
    assert "[1] ‡" in direct
    assert "first cut 3.weight" in direct
    (comparison,) = comparisons(as_frame(list(store)))
    cell = comparison.cells["random", 0.5]
    assert 0.5 < cell.effective_sparsity < 1
    assert f"[{share(cell.effective_sparsity)}]" in direct
    figure, other = (Path(re.findall(r"\((figures/[^)]*)\)", text)[0]).read_bytes() for text in (direct, effective))
    assert figure != other
    assert figures.place(0.5, cell, "effective") == cell.effective_sparsity
    assert figures.place(0.5, cell, "direct") == 0.5


@pytest.mark.parametrize(
    ("sparsity", "text"), [(0.0, "0"), (1.0, "1"), (0.5, "0.500"), (0.99, "0.9900"), (0.99951234, "0.999512")]
)
def test_a_sparsity_is_written_with_three_digits_of_its_density(sparsity: float, text: str) -> None:
    assert share(sparsity) == text


def test_old_records_without_connectivity_are_read() -> None:
    _, cut = records()
    old = {key: value for key, value in fields_of(cut.to_json()).items() if key != "first_cut"}
    assert Record.from_json(json.dumps(old)).pruning.first_cut is None
    assert torch.tensor([layer.effective or 0 for layer in cut.pruning.layers]).sum() == 0


class Odd(nn.Module):
    """A network that connectivity fails on, one way or the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and len(x) == 1:
            raise ZeroDivisionError
        y: Tensor = self.layer(x.flatten(1))
        return y


def odd(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Odd()


class Constant(nn.Module):
    """A network whose output does not depend on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.zeros_like(x))
        return y


def constant(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Constant()


def test_the_dense_reference_is_trained_whatever_its_paths() -> None:
    found = run_catalog(resolve(sweep(models=[odd, constant], criteria=["random"], seeds=1)), "r")
    states = [(record.trial["model"], record.status, record.pruning.connected) for record in found]
    expected: list[tuple[str, str, bool | None]] = [("odd", "done", None), ("odd", "done", None)]
    expected += [("constant", "done", False), ("constant", "disconnected", False)]
    assert states == expected, [record.error for record in found]


def test_a_dry_run_knows_that_disconnected_networks_are_to_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--criteria", "random", "--models", "lenet-300-100", "--sparsities", "0.99999", "--seeds", "1"]
    arguments += ["--epochs", "0", "--device", "cpu"]
    assert main(arguments) == 0
    capsys.readouterr()
    for flags, missing in (([], 0), (["--train-disconnected"], 1)):
        assert main([*arguments, "--dry-run", *flags]) == 0
        assert f"2 trials, {missing} to run" in capsys.readouterr().out
