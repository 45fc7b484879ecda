"""Criteria of which each breaks one rule that the conformance suite checks."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.masks import Linear, Schedule
from pai_bench.scoring import MaskedModel, Scores, StructuredCriterion
from pai_bench.scoring.functions import weights


def unguarded(cls: type[pb.Criterion]) -> type[pb.Criterion]:
    """A criterion whose formula is public as it is, so that it sees the caller's own model."""
    cls.score = cls._formula_behind_score  # type: ignore[method-assign]
    return cls


@dataclass(frozen=True)
class Magnitude(pb.Criterion):
    """Does nothing wrong."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return {name: weight.abs() for name, weight in model.weights().items()}


@unguarded
@dataclass(frozen=True)
class Backwards(pb.Criterion):
    def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
        return dict(reversed(weights(model).items()))


@dataclass(frozen=True)
class DoubleOnly(pb.Criterion):
    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        factor = torch.eye(1, dtype=torch.float64)
        return {name: (w.view(-1, 1) @ factor).view_as(w) for name, w in model.weights().items()}


@dataclass(frozen=True)
class Infinite(pb.Criterion):
    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return {name: weight / 0 for name, weight in model.weights().items()}


@dataclass(frozen=True)
class Drifting(pb.Criterion):
    """Its scores grow with every call."""

    calls: ClassVar = itertools.count()

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return {name: weight + next(self.calls) for name, weight in model.weights().items()}


@unguarded
@dataclass(frozen=True)
class Drawing(pb.Criterion):
    """Draws from the caller's random state."""

    def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
        torch.rand(1)
        return weights(model)


@unguarded
@dataclass(frozen=True)
class Careless(pb.Criterion):
    """Leaves gradients, a flag and a hook behind, and then fails where the batch does not fit."""

    def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
        if batch.inputs.shape[-1] == 1:
            model.eval().register_forward_hook(lambda _module, _inputs, _output: None)
            next(model.parameters()).grad = None
            raise RuntimeError("does not fit")
        return weights(model)


@dataclass(frozen=True)
class Quotaless(Magnitude):
    """Divides the budget by proportions that it does not give."""

    scope: ClassVar = "quota"


@dataclass(frozen=True)
class TooDeep(Linear):
    def densities(self, density: float) -> list[float]:
        return [density / 2]


@dataclass(frozen=True)
class Overshooting(Magnitude):
    schedule: ClassVar[Schedule] = TooDeep()


@dataclass(frozen=True)
class Inverse(pb.Criterion):
    """Cannot be computed where a weight is removed."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return {name: 1 / model.get_parameter(name).detach() for name in model.weights()}


@dataclass(frozen=True)
class Doubling(pb.Criterion):
    """Changes the weights once some are removed, by a way that leaves no trace."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        found = {name: model.get_parameter(name) for name in model.weights()}
        if any(bool((weight == 0).any()) for weight in found.values()):
            for weight in found.values():
                weight.data.mul_(2)
        return {name: weight.detach().abs() for name, weight in found.items()}


@dataclass(frozen=True)
class Restoring(pb.Criterion):
    """Gives removed weights a value."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        for name in model.weights():
            weight = model.get_parameter(name)
            weight.data.masked_fill_(weight.data == 0, 1.0)
        return {name: weight.abs() for name, weight in model.weights().items()}


@dataclass(frozen=True)
class Shares(pb.Criterion):
    """Cannot be computed where a whole layer is removed."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        found = {name: model.get_parameter(name).detach().abs() for name in model.weights()}
        return {name: weight / weight.sum() for name, weight in found.items()}


@unguarded
@dataclass(frozen=True)
class Mislabelled(pb.Criterion):
    """Leaves a flag behind where labels do not fit."""

    def score(self, model: nn.Module, batch: pb.Batch) -> Scores:
        if int(batch.targets.max()) > 2:
            model.eval()
        return weights(model)


@dataclass(frozen=True)
class Even(pb.Criterion):
    """Layers whose scores sum to 1 but for a share `off`."""

    off: float = 1e-8
    properties: ClassVar[tuple[str, ...]] = ("conserves-flow",)

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        sums = (1 + self.off * i for i in range(9))
        return {name: torch.full_like(w, next(sums) / w.numel()) for name, w in model.weights().items()}


@dataclass(frozen=True)
class Curious(pb.Criterion):
    uses_data: ClassVar[bool] = False

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return model.saliencies(batch, lambda _w, g, _loss: g.abs_())


@dataclass(frozen=True)
class UpsideDown(pb.Criterion):
    properties: ClassVar[tuple[str, ...]] = ("keeps-the-loss",)

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return model.saliencies(batch, lambda w, g, _loss: g.mul_(w).abs_().neg_())


@dataclass(frozen=True)
class Mixed(pb.Criterion):
    properties: ClassVar[tuple[str, ...]] = ("loss-scale",)

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        return model.saliencies(batch, lambda w, g, _loss: g.abs_() + w.abs())


@dataclass(frozen=True)
class Leaking(Magnitude):
    properties: ClassVar[tuple[str, ...]] = ("conserves-flow",)


@dataclass(frozen=True)
class Boasting(Magnitude):
    properties: ClassVar[tuple[str, ...]] = ("wins",)


def number(model: MaskedModel) -> int:
    """Of its groups."""
    assert model.groups is not None
    return model.groups.count


@dataclass(frozen=True)
class Partial(StructuredCriterion):
    def score(self, model: MaskedModel, batch: pb.Batch) -> Tensor:
        return torch.ones(number(model) - (next(model.parameters()).dtype is torch.float32))


@dataclass(frozen=True)
class Restless(StructuredCriterion):
    CALLS = itertools.count()

    def score(self, model: MaskedModel, batch: pb.Batch) -> Tensor:
        return torch.arange(number(model)) + 1.0 * next(self.CALLS)


@unguarded
@dataclass(frozen=True)
class Seeding(StructuredCriterion):
    def score(self, model: MaskedModel, batch: pb.Batch) -> Tensor:
        torch.manual_seed(7)
        return torch.ones(number(model))


@dataclass(frozen=True)
class FirstOnly(StructuredCriterion):
    LARGEST: ClassVar[dict[tuple[str, ...], int]] = {}

    def score(self, model: MaskedModel, batch: pb.Batch) -> Tensor:
        if number(model) < self.LARGEST.setdefault(tuple(model.prunable), number(model)):
            raise RuntimeError("this network is a smaller one")
        return torch.arange(number(model)) + 0.0


@dataclass(frozen=True)
class Nosy(StructuredCriterion):
    uses_data: ClassVar[bool] = False

    def score(self, model: MaskedModel, batch: pb.Batch) -> Tensor:
        return torch.arange(number(model)) + batch.inputs.sum()


BROKEN: list[tuple[type[pb.Criterion], str, str]] = [
    (
        Backwards,
        "contract",
        "Backwards on mlp: in torch.float64: scores come in the order 5.weight, 3.weight, 1.weight",
    ),
    (DoubleOnly, "contract", "DoubleOnly on cnn: in torch.float32: RuntimeError: "),
    (Drifting, "deterministic", "Drifting on lstm: the scores differ when computed again, in '1.weight_ih_l0'"),
    (Drawing, "no-side-effects", "Drawing on tied: score changes torch's random state; "),
    (
        Careless,
        "no-side-effects",
        "score, on inputs that do not fit, changes the gradient of '1.weight', flags or hooks",
    ),
    (Quotaless, "exact-count", "Quotaless on cnn: UserError: Quotaless has no quota"),
    (
        Overshooting,
        "exact-count",
        "sparsity 0.8, scope global, schedule linear:steps=100: 63 of 631 connections are kept, ",
    ),
    (
        Inverse,
        "masked",
        "Inverse on mlp: with half of the weights removed: CriterionError: Inverse gave infinite scores",
    ),
    (
        Doubling,
        "masked",
        "Doubling on mlp: with half of the weights removed: the formula changes the weights of '1.weight' under a mask",
    ),
    (
        Curious,
        "data-free",
        "Curious on mlp: the scores depend on the batch, although uses_data is False, in '1.weight'",
    ),
    (UpsideDown, "keeps-the-loss", "UpsideDown on cnn: without the tenth of the weights that score lowest the loss"),
    (Mixed, "loss-scale", "Mixed on residual: the mask changes when the loss is multiplied by 10, in '0.0.weight'"),
    (Leaking, "conserves-flow", "Leaking on bias-free-cnn: the scores of '2.weight' sum to "),
    (
        Partial,
        "contract",
        "Partial on mlp: in torch.float32: CriterionError: Partial gave scores of shape (12,) to 13 groups",
    ),
    (Restless, "deterministic", "Restless on mlp: the scores differ when computed again"),
    (Seeding, "no-side-effects", "score changes"),
    (FirstOnly, "smaller-networks", "FirstOnly on mlp: RuntimeError: this network is a smaller one"),
    (Nosy, "data-free", "Nosy on mlp: the scores depend on the batch, although uses_data is False, in 'groups'"),
    (Boasting, "wins", "Boasting: unknown property 'wins'; known are keeps-the-loss, loss-scale, conserves-flow"),
]
