"""Dynamic sparse training: SET and RigL, which drop and grow connections while a network is trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pai_bench import UserError, criterion
from pai_bench.masks import Scope
from pai_bench.scoring import Batch, Change, DuringTraining, MaskedModel, Moment, Scores, Timeline

FIRST = 10**6
"""How much more of its size the first layer gets than others, to be kept whole."""

CURE = "give a smaller every, a larger until, or more epochs"


@criterion("set", source="Mocanu et al. 2018, arXiv:1707.04780, as in the code of Evci et al. 2020")
@dataclass(frozen=True)
class SET(DuringTraining):
    """score = u, uniform, for the random mask at the start; then connections are dropped and grown at random.

    The n active weights of each layer that are nearest to zero are dropped, and n grow that were inactive, or dropped.
    Every D steps t with 0 < t < T_end, ``n = int(f(t) * a)`` of the a active weights of a layer,
    ``f(t) = alpha / 2 * (1 + cos(pi * t / T_end))``; the numbers of connections of the layers never change. Of equal
    magnitudes the higher index is dropped, of equal scores the lower one grows. What was inactive begins at zero; what
    is dropped and grown at once keeps its value. A layer that is whole has nothing to grow.

    As first published: ``drop=signed:grow_init=random:every=epoch:anneal=constant``.

    * ``alpha``, ``anneal``: f as above (``cosine``), or alpha throughout (``constant``).
    * ``every``: D, in steps of the published training, which a budget scales; or ``epoch``.
    * ``until``: T_end, as a share of the steps.
    * ``layers``: connections of the random mask at the start, in proportion to the sum of a layer's dimensions
      (``erk``), or the same share of each layer (``uniform``).
    * ``first_layer``: whether the first layer is kept whole (``dense``).
    * ``grow``: what grows: the largest absolute ``gradient`` of the loss on this step's batch, or at ``random``.
    * ``drop``: the smallest ``magnitude``, or apart for positive and negative weights (``signed``).
    * ``grow_init``: whether what was inactive begins at ``zero``, or as another draw of the initial weights.
    * ``replace_step``: whether this takes the place of the optimiser's step.

    Mocanu et al. 2018, arXiv:1707.04780.
    """

    alpha: float = 0.3
    anneal: Literal["cosine", "constant"] = "cosine"
    every: int | Literal["epoch"] = 100
    until: float = 0.75
    layers: Literal["erk", "uniform"] = "erk"
    first_layer: Literal["sparse", "dense"] = "sparse"
    grow: Literal["random", "gradient"] = "random"
    drop: Literal["magnitude", "signed"] = "magnitude"
    grow_init: Literal["zero", "random"] = "zero"
    replace_step: bool = False

    uses_data: ClassVar[bool] = False
    """The mask at the start depends on none."""
    scope: ClassVar[Scope] = "quota"
    figure_style: ClassVar[tuple[str, str, str]] = ("#000000", "D", "--")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "until"):
            if not 0 < (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name}={value:g} is outside (0, 1]: it is a share")
        if self.every != "epoch" and self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1, or epoch")

    @property
    def begins_dense(self) -> bool:
        return False

    @property
    def needs_gradients(self) -> bool:
        return self.grow == "gradient"

    @property
    def replaces_step(self) -> bool:
        return self.replace_step

    def score(self, model: MaskedModel, batch: Batch) -> Scores:
        return model.uniform()

    def proportions(self, shapes: Mapping[str, torch.Size]) -> Mapping[str, int]:
        """Connections of each layer at the start, up to a common factor."""
        sizes = {name: sum(shape) if self.layers == "erk" else shape.numel() for name, shape in shapes.items()}
        if self.first_layer == "dense":
            first = next(iter(shapes))
            sizes[first] = FIRST * sum(sizes.values())
        return sizes

    def moments(self, timeline: Timeline) -> Sequence[int]:
        every = timeline.epoch if self.every == "epoch" else timeline.after(self.every)
        end = self._end(timeline)
        if timeline.steps and every >= end:
            raise UserError(f"{self}: no change comes, the first after {every} steps, the last before {end:g}: {CURE}")
        return range(every, math.ceil(end), every)

    def _end(self, timeline: Timeline) -> float:
        return self.until * timeline.steps

    def fraction(self, step: int, timeline: Timeline) -> float:
        """f(t), the share of a layer's active weights that is dropped and grown after t steps."""
        if self.anneal == "constant":
            return self.alpha
        return self.alpha / 2 * (1 + math.cos(math.pi * step / self._end(timeline)))

    def change(self, moment: Moment) -> Change:
        share, mask, first = self.fraction(moment.step, moment.timeline), {}, next(iter(moment.mask))
        if self.first_layer == "dense" and not bool(moment.mask[first].all()):
            raise UserError(f"{self}: {first!r} has more weights than are to be kept in all: it cannot be dense")
        for name, active in moment.mask.items():
            wanted = moment.gradients[name].abs() if self.grow == "gradient" else self._uniform(moment, active)
            mask[name] = active if bool(active.all()) else self.exchanged(moment.weights[name], active, wanted, share)
        return Change(mask, moment.initial() if self.grow_init == "random" else None)

    @staticmethod
    def _uniform(moment: Moment, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=moment.random, dtype=torch.float64).to(like.device)

    def exchanged(self, weight: Tensor, active: Tensor, wanted: Tensor, share: float) -> Tensor:
        """The mask of a layer after its exchange: what grows has the largest values in `wanted`."""
        values, kept = weight.flatten(), active.flatten().clone()
        for part in (kept,) if self.drop == "magnitude" else (kept & (values > 0), kept & (values < 0)):
            places = part.nonzero().squeeze(1)
            left = len(places) - int(share * len(places))
            order = values[places].abs().argsort(descending=True, stable=True)
            kept[places[order[left:]]] = False
        count = int(active.sum()) - int(kept.sum())
        free = (~kept).nonzero().squeeze(1)
        kept[free[wanted.flatten()[free].argsort(descending=True, stable=True)[:count]]] = True
        return kept.view_as(active)


@criterion("rigl", source="Evci et al. 2020, arXiv:1911.11134, algorithm 1")
@dataclass(frozen=True)
class RigL(SET):
    """score = u, uniform, for the random mask at the start; then the largest |dL/dw| grow in place of small weights.

    As ``set``, with the same options, but those grow that have the largest dense gradients at the masked weights, and
    this takes the place of the optimiser's step.

    Evci et al. 2020, arXiv:1911.11134, algorithm 1.
    """

    grow: Literal["random", "gradient"] = "gradient"
    replace_step: bool = True

    figure_style: ClassVar[tuple[str, str, str]] = ("#56B4E9", "X", "--")
