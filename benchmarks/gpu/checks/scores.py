"""Scores and masks of the device beside those of the CPU."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import pai_bench as pb
from benchmarks.gpu import engine, scoring
from benchmarks.gpu.stage import Context, Finding, Piece, one_line

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-10}
"""How far a score may be from the CPU's, over the largest of its layer."""

AT_THRESHOLD = 1e-9
"""How near to the threshold, over the largest score, a score must be where masks in float64 differ."""

DIFFERENCE, MASKS, DISTANCE = "largest difference", "mask differences", "their distance to the threshold"

FEW = 8
"""Cuts of a schedule where its own number is not what is checked."""

Example = tuple[nn.Module, pb.Batch]


@dataclass
class Worst:
    """The largest differences so far."""

    difference: float = 0.0
    masks: int = 0
    distance: float = 0.0

    def add(self, cut: scoring.Cut) -> None:
        """Look at one cut."""
        self.difference = max(self.difference, *(apart(a, cut.device_scores[n]) for n, a in cut.scores.items()))
        for names in [[name] for name in cut.mask] if cut.by_layer else [list(cut.mask)]:
            count, distance = mask_differences(cut, names)
            self.masks, self.distance = self.masks + count, max(self.distance, distance)


def apart(one: Tensor, other: Tensor) -> float:
    """The largest |a - b| over the largest |a|; 0 for equal tensors, infinite where there is none."""
    if torch.equal(one, other):
        return 0.0
    found = float((one.double() - other.double()).abs().max() / one.double().abs().max())
    return math.inf if math.isnan(found) else found


def mask_differences(cut: scoring.Cut, names: list[str]) -> tuple[int, float]:
    """At how many places two masks of layers that are ranked together differ, and how far from the threshold at most.

    The distance is that of the CPU's score to the lowest that it keeps, over the largest score.
    """
    scores, mask, other = (
        torch.cat([of[name].flatten() for name in names]) for of in (cut.scores, cut.mask, cut.device_mask)
    )
    differ = mask ^ other
    if not differ.any():
        return 0, 0.0
    if not mask.any():
        return int(differ.sum()), float("inf")
    distances = (scores[differ].double() - scores[mask].min().double()).abs()
    return int(differ.sum()), float(distances.max() / scores.double().abs().max())


def pieces(context: Context) -> Iterator[Piece]:
    """Every criterion on every kind of network, every schedule, every variant, every option."""
    for kind in TOLERANCES:
        names = ["mlp", "cnn", "residual"] if context.rehearse else [*scoring.kinds(), *LARGER]
        if kind == torch.float32:
            names = [name for name in names if name not in ROUGH]
        for name in scoring.criteria():
            work = on_networks(context, pb.get_criterion(name), names, kind)
            yield Piece(f"scores, {short(kind)}", name, work, needs=5)
    for name in scoring.criteria():
        if pb.get_criterion(name).uses_data:
            for network in ROUGH:
                yield Piece(f"scores of {network}, float32", name, rough(context, name, network), needs=5)
    yield Piece("products", "while scoring", lambda: products(context))
    for schedule in scoring.schedules(5 if context.rehearse else None):
        yield Piece("schedules, float64", str(schedule), cut_by_cut(context, "snip", schedule), needs=3)
    for name in scoring.criteria():
        own = scoring.shortened(pb.get_criterion(name), 5 if context.rehearse else None)
        yield Piece("own schedule, float64", f"{name}, {own}", cut_by_cut(context, name, own), needs=5)
    for option in OPTIONS:
        one_cut = scoring.shortened(pb.get_criterion(option), FEW)
        yield Piece("options, float64", option, cut_by_cut(context, option, one_cut), needs=3)
    for name in ("snip", "magnitude"):
        for variant in scoring.variants():

            def masks(name: str = name, variant: str = variant) -> Finding:
                return same_masks(context, name, variant)

            yield Piece("variants, float64", f"{name} + {variant}", masks, needs=3)


OPTIONS = (
    *("snip:bn=train", "snip:score-init=redrawn", "snip:score-init=vs-x", "snip:loss=nll", "snip:biases=true"),
    *("snip:micro-batch=5", "grasp:bn=eval", "grasp:halves=true", "grasp:temperature=1", "synflow:ties=remove"),
)

LARGER = {"lenet-300-100": (1, 28, 28), "lenet-5-caffe": (1, 28, 28), "resnet-20": (3, 32, 32)}
"""Networks of the published tables, which are compared, too."""


ROUGH = ("resnet-20", "lenet-5-caffe")
"""Networks in which float32 has no last word: where rounding moves an activation over zero, or makes another one the
largest of those that are pooled, whole gradients change."""

SEEDS, FACTOR, LEAST = 4, 4.0, 1e-3
"""Networks whose distances are averaged; how far the device may be, and what one such activation comes to."""


def short(kind: torch.dtype) -> str:
    """A type without its module."""
    return str(kind).removeprefix("torch.")


def example(name: str, kind: torch.dtype) -> Example:
    """A network of a kind, or of a published table, in some precision, with a batch."""
    if name not in LARGER:
        model, batch = scoring.example(name)
    else:
        model = copy.deepcopy(engine.model(name, LARGER[name]))
        inputs = torch.randn(20, *LARGER[name], generator=torch.Generator().manual_seed(0))
        batch = pb.Batch(inputs, torch.arange(20) % 10)
    return model.to(kind), pb.Batch(batch.inputs.to(kind), batch.targets)


def on_networks(
    context: Context, criterion: pb.Criterion, names: list[str], kind: torch.dtype
) -> Callable[[], Finding]:
    """The largest difference on each network, a few cuts of the criterion's schedule."""

    def run() -> Finding:
        found: dict[str, float] = {}
        troubles, worst = [], Worst()
        for name in names:
            context.need(2)
            own, schedule = Worst(), scoring.shortened(criterion, FEW)
            try:
                for cut in scoring.cuts(*example(name, kind), criterion, context.device, schedule=schedule):
                    own.add(cut)
                    worst.add(cut)
                found[name] = own.difference
            except Exception as error:  # the other networks are worth knowing
                troubles.append(f"{name}: {one_line(error)}")
        return finding(worst, kind, found, "; ".join(troubles) or None)

    return run


def finding(worst: Worst, kind: torch.dtype, more: Mapping[str, float], failed: str | None = None) -> Finding:
    """What was found, with its limits."""
    limit = TOLERANCES[kind]
    # a score in float32 may be as far from the CPU's as its own tolerance, and so from the threshold
    near = AT_THRESHOLD if kind == torch.float64 else 2 * limit
    values = {**more, DIFFERENCE: worst.difference, MASKS: worst.masks, DISTANCE: worst.distance}
    return Finding(values, {**dict.fromkeys(more, limit), DIFFERENCE: limit, DISTANCE: near}, DIFFERENCE, failed)


def rough(context: Context, name: str, network: str) -> Callable[[], Finding]:
    """How far scores of such a network in float32 are from those in float64, beside what the CPU's own are.

    The CPU's are computed by oneDNN and by torch's own convolutions, which round otherwise; the device may be `FACTOR`
    times as far as the farther of them. Distances are means over several networks; products in TF32 would be ten times
    as far.
    """

    def run() -> Finding:
        shape = (3, 8, 8) if context.rehearse and network == "resnet-20" else LARGER[network]
        criterion, found = pb.get_criterion(name), [0.0, 0.0, 0.0]
        seeds = 2 if context.rehearse else SEEDS
        for seed in range(seeds):
            context.need(1)
            model = copy.deepcopy(engine.model(network, shape, seed=seed))
            inputs = torch.randn(20, *shape, generator=torch.Generator().manual_seed(seed))
            batch = pb.Batch(inputs, torch.arange(20) % 10)
            exact = criterion.score(copy.deepcopy(model).double(), pb.Batch(inputs.double(), batch.targets))
            there = criterion.score(copy.deepcopy(model).to(context.device), batch.to(context.device))
            with scoring.without_onednn():
                other = criterion.score(model, batch)
            for i, scores in enumerate((there, criterion.score(model, batch), other)):
                found[i] += far(exact, scores) / seeds
        values = {"distance": found[0], "CPU's distance": max(found[1:])}
        return Finding(values, {"distance": FACTOR * max(found[1:]) + LEAST}, "distance")

    return run


def far(exact: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> float:
    """The largest distance of a layer's scores from the exact ones, over their length."""
    return max(float((scores[n].cpu().double() - want).norm() / want.norm()) for n, want in exact.items())


def products(context: Context) -> Finding:
    """Whether products are rounded to TF32 while a formula runs."""
    rounded = scoring.rounded_while_scoring(context.device)
    limits = {"kinds of products that are rounded": 0.0} if context.cuda else {}
    return Finding({"kinds of products that are rounded": len(rounded), "which": ", ".join(rounded)}, limits)


def cut_by_cut(context: Context, name: str, schedule: object) -> Callable[[], Finding]:
    """All cuts of a schedule on a network with convolutions and batch norm."""

    def run() -> Finding:
        worst, count = Worst(), 0
        model, batch = example("cnn", torch.float64)
        for cut in scoring.cuts(model, batch, pb.get_criterion(name), context.device, schedule=str(schedule)):
            worst.add(cut)
            count += 1
        return finding(worst, torch.float64, {}) if count else Finding(failed="the schedule has no cut")

    return run


def same_masks(context: Context, name: str, variant: str) -> Finding:
    """At how many places the masks of a whole pruning differ: random numbers and permutations are the CPU's."""
    count = size = 0
    for network in ("mlp", "cnn", "residual"):
        model, batch = example(network, torch.float64)
        mask = pb.prune(model, batch, name, 0.8, variant=variant)
        twin = copy.deepcopy(model).to(context.device)
        other = pb.prune(twin, batch.to(context.device), name, 0.8, variant=variant).to("cpu")
        count += sum(int((mask[layer] ^ other[layer]).sum()) for layer in mask)
        size += mask.size
    return Finding({"connections": size, MASKS: count}, {MASKS: 0}, MASKS)
