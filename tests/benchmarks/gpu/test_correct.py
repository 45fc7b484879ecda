"""The checks of the stage `correct` pass on a CPU beside itself, and fail where something is wrong."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu import correct, engine, scoring
from benchmarks.gpu.archive import Archive
from benchmarks.gpu.checks import epochs, scores, selection, steps
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.stage import NEEDS_CUDA, Context, Finding, Piece, SkippedError
from pai_bench.pruning.pruner import scored
from pai_bench.pruning.variant import VARIANTS
from pai_bench.support.registry import SCHEDULES
from tests.made import UNSTRUCTURED

CPU = torch.device("cpu")


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A rehearsal on the CPU."""
    return Context("correct", CPU, True, time.monotonic() + 1000, Ledger(Archive(tmp_path / "correct.tar")), {})


def piece(context: Context, group: str, name: str) -> Callable[[], Finding | None]:
    """The work of one piece."""
    (found,) = [one for one in correct.pieces(context) if (one.group, one.name) == (group, name)]
    return found.run


def test_every_criterion_schedule_and_variant_is_checked(context: Context) -> None:
    pieces = correct.pieces(context)
    assert len({one.entry.key for one in pieces}) == len(pieces)
    named = {one.group: [two.name for two in pieces if two.group == one.group] for one in pieces}
    assert named["scores, float32"] == named["scores, float64"] == UNSTRUCTURED
    assert {name.partition(":")[0] for name in named["schedules, float64"]} == set(SCHEDULES)
    assert len(named["schedules, float64"]) == 2 * len(SCHEDULES) - 1  # with connections that return, but one-shot
    assert {name for name in named["variants, float64"] if name.startswith("snip")} == {
        f"snip + {variant.replace('NAME', 'erk')}" for variant in VARIANTS
    }
    full = [one for one in correct.pieces(Context(**vars(context) | {"rehearse": False})) if one.cuda]
    assert {one.group for one in full} >= {"no waiting inside an epoch", "cost of deterministic cuDNN"}


def test_a_difference_by_hand() -> None:
    one = torch.tensor([1.0, -4.0])
    assert scores.apart(one, torch.tensor([1.0, -4.0])) == 0
    assert scores.apart(one, torch.tensor([1.5, -4.0])) == 0.125
    assert scores.apart(torch.zeros(2), one) == float("inf")
    assert scores.apart(one, torch.tensor([1.0, float("nan")])) == float("inf")
    mask, other = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
    values = {"a": torch.tensor([8.0, 3.0, 4.0, 1.0])}
    cut = scoring.Cut(values, values, {"a": mask}, {"a": other}, by_layer=False)
    assert scores.mask_differences(cut, ["a"]) == (2, 0.125)  # the threshold is 4; 3 is 1 of 8 away
    worst = scores.Worst()
    worst.add(cut)
    assert (worst.difference, worst.masks, worst.distance) == (0.0, 2, 0.125)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_other_scores_are_found(context: Context, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    run, limit = piece(context, f"scores, {scores.short(kind)}", "snip"), scores.TOLERANCES[kind]
    finding = run()
    assert finding is not None
    assert finding.problem is None
    assert finding.limits["mlp"] == limit
    count = iter(range(1000))

    def off(*arguments: Any, **options: Any) -> Any:
        given = scored(*arguments, **options)
        return {n: s * (1 + 3 * limit) for n, s in given.items()} if next(count) % 2 else given

    monkeypatch.setattr("benchmarks.gpu.scoring.scored", off)
    finding = run()
    assert finding is not None
    assert "cnn is" in (finding.problem or "")


def test_an_error_on_one_network_does_not_hide_the_others(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = scoring.example

    def broken(kind: str) -> Any:
        if kind == "cnn":
            raise RuntimeError("no convolution here")
        return usual(kind)

    monkeypatch.setattr(scoring, "example", broken)
    finding = piece(context, "scores, float64", "snip")()
    assert finding is not None
    assert finding.problem == "cnn: RuntimeError: no convolution here"
    assert set(finding.values) >= {"mlp", "residual"}


def test_a_wrong_selection_is_found(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    tied = "selection", "200 scores, 3 different values, every count"
    finding = piece(context, *tied)()
    assert finding is not None
    assert finding.problem is None
    live = selection.drawn(200, 3, True)[1]
    assert live is not None
    assert finding.values["counts"] == 201 + 1 + sum(int(mask.sum()) for mask in live.values())

    def last_first(given: dict[str, Tensor], count: int, alive: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        flat = torch.cat([score.flip(0) for score in given.values()])
        if alive is not None:
            flat = flat.masked_fill(~torch.cat([mask.flip(0) for mask in alive.values()]), -torch.inf)
        mask = torch.zeros(len(flat), dtype=torch.bool)
        mask[flat.argsort(descending=True, stable=True)[:count]] = True
        parts = mask.split([len(score) for score in given.values()])
        return {name: part.flip(0) for name, part in zip(given, parts, strict=True)}

    monkeypatch.setattr(scoring, "select", last_first)
    finding = piece(context, *tied)()
    assert finding is not None
    assert "places that differ" in (finding.problem or "")
    finding = piece(context, "selection", "200 scores, all different, every count")()
    assert finding is not None
    assert finding.problem is None  # there, the order of equal scores does not matter


def test_counts_around_ties() -> None:
    assert selection.around_ties(torch.tensor([3.0, 3.0, 1.0, 1.0, 1.0]), 5) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("optimizer", steps.OPTIMIZERS)
def test_a_wrong_step_is_found(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def finding() -> Finding:
        return steps.beside_plain(CPU, optimizer, "fp32", "alone", recorded=False)

    assert finding().problem is None
    usual = engine.step

    def faster(*given: Any, **options: Any) -> engine.TakeStep:
        step = usual(*given, **options)
        return lambda inputs, targets, rate: step(inputs, targets, 1.001 * rate)

    monkeypatch.setattr(engine, "step", faster)
    assert (finding().problem or "").startswith("error is")


def test_weights_that_come_back_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = engine.program

    def forgetful(*given: Any) -> Any:
        program: Any = usual(*given)
        program.enforcer = lambda: None
        return program

    monkeypatch.setattr(engine, "program", forgetful)
    found = steps.beside_plain(CPU, "sgd", "fp32", "alone", recorded=False)
    assert "removed weights that are not zero is" in (found.problem or "")


def test_other_bits_are_found(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    run = piece(context, "the same bits twice", "alone")
    finding = run()
    assert finding is not None
    assert finding.problem is None
    assert finding.values["tensors"] == len(list(engine.model("resnet-20", (3, 8, 8)).parameters()))
    usual = engine.step

    def trembling(*given: Any, **options: Any) -> engine.TakeStep:
        step = usual(*given, **options)
        return lambda inputs, targets, rate: step(inputs, targets, rate * (1 + 1e-6 * torch.rand(1).item()))

    monkeypatch.setattr(engine, "step", trembling)
    finding = run()
    assert finding is not None
    assert "tensors that differ" in (finding.problem or "")


@pytest.mark.parametrize("build", [epochs.DividesByNumber, epochs.DecidesByNumber, epochs.ChangesShape])
def test_odd_networks_train(context: Context, build: type[epochs.Odd]) -> None:
    finding = epochs.odd(context, build)()
    assert finding.problem is None
    assert finding.values["distance from the CPU's weights"] == 0


def test_graphs_need_cuda() -> None:
    with pytest.raises(SkippedError, match=NEEDS_CUDA):
        engine.step(engine.program([nn.Linear(1, 1)], [None], "alone"), engine.protocol(), CPU, recorded=True)


def test_products_that_are_rounded_while_scoring_are_named(context: Context) -> None:
    finding = scores.products(context)
    assert set(str(finding.values["which"]).split(", ")) <= {"", "matrix products", "convolutions", "recurrent layers"}
    backends: Any = torch.backends
    with steps.torch_products("tf32"):
        assert scoring.rounded() == ["matrix products", "convolutions", "recurrent layers"]
    with steps.torch_products("fp32"):
        assert scoring.rounded() == []
    assert backends.cuda.matmul.allow_tf32 is False


@pytest.mark.gpu
@pytest.mark.parametrize("group", ["no waiting inside an epoch", "cost of deterministic cuDNN"])
def test_on_a_gpu(context: Context, group: str) -> None:
    there = Context(**vars(context) | {"device": torch.device("cuda")})
    pieces: list[Piece] = [one for one in correct.pieces(there) if one.group == group and "alone" in one.name]
    for one in pieces:
        finding = one.run()
        assert finding is not None
        assert finding.problem is None


@pytest.mark.parametrize("precision", steps.PRECISIONS)
def test_both_kinds_of_torchs_switches_agree(precision: engine.Precision) -> None:
    def read() -> list[object]:
        backends: Any = torch.backends
        newer = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn
        return [backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, *(one.fp32_precision for one in newer)]

    before = read()
    with steps.torch_products(precision):
        rounds = precision == "tf32"
        assert read() == [rounds, rounds, *["tf32" if rounds else "ieee"] * 3]  # reading is an error where they differ
    assert read() == before
