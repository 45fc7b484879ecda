"""What scoring costs on the device: every criterion on four networks, and selection among 134 million scores."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import pai_bench as pb
from benchmarks.gpu import engine, scoring
from benchmarks.gpu.stage import Context, Finding, Piece
from pai_bench.results import Provenance


@dataclass(frozen=True)
class Network:
    """A network, the shape of its images, the size of its batches, and seconds that some tens of scores need."""

    name: str
    shape: tuple[int, ...]
    batch: int
    many: float = 6.0


NETWORKS = (
    Network("resnet-18", (3, 32, 32), 100),
    Network("torchvision:vgg16_bn", (3, 32, 32), 64),  # its classifier makes 134 million weights of it
    Network("torchvision:resnet50", (3, 224, 224), 64, many=12),
    Network("torchvision:vit_b_16", (3, 224, 224), 64, many=35),
)
TINY = (Network("lenet-300-100", (1, 8, 8), 20), Network("resnet-20", (3, 8, 8), 20))

ROUNDS, BUDGET, STEP_ROUNDS = 20, 0.8, 3
"""Measurements of a score and of a pruning at most, about how many seconds for each, and measurements of a step."""

MANY = 20
"""Cuts from which on a criterion comes last: its pruning takes seconds where a score takes milliseconds."""

SELECTED, DENSITY = "torchvision:vgg16_bn", 0.05


def pieces(context: Context) -> Iterator[Piece]:
    """Selection, one-shot criteria on all networks, and then those with many cuts."""
    yield from selection(context)
    networks = TINY if context.rehearse else NETWORKS
    made = {network: functools.cache(functools.partial(costs_of, context, network)) for network in networks}
    for many in (False, True):
        for network in networks:
            for name in scoring.criteria():
                cuts = len(pb.get_criterion(name).schedule.densities(0.05))
                if (cuts >= MANY) == many:
                    work = measured(context, made[network], name)
                    needs = network.many if many else 4.0
                    yield Piece(network.name, name, work, needs=0.5 if context.rehearse else needs)


Made = Callable[[], tuple[scoring.Costs, float]]


def costs_of(context: Context, network: Network) -> tuple[scoring.Costs, float]:
    """What measures a network's costs, and the seconds of a training step of it."""
    data = engine.random_images(network.shape, 2 * network.batch, name=f"random-{network.shape[-1]}")
    costs = scoring.costs(network.name, data, context.device, batch=network.batch)
    return costs, costs.step_seconds(1 if context.rehearse else STEP_ROUNDS)


def measured(context: Context, made: Made, name: str) -> Callable[[], None]:
    """Measure one criterion, and keep the record, which is of the kind that ``pai-bench time`` writes."""

    def run() -> None:
        with engine.skipped_without_memory(context.device, "a training step"):
            costs, step = made()
        rounds, budget = (1, 0.2) if context.rehearse else (ROUNDS, BUDGET)
        with engine.skipped_without_memory(context.device, name):
            cost = costs.measure(name, step, rounds=rounds, budget=budget)
        cost = dataclasses.replace(cost, provenance=Provenance(**context.provenance))
        context.keep(f"costs/{cost.identity}.json", cost.to_json())

    return run


def selection(context: Context) -> Iterator[Piece]:
    """Selecting 5 % of the scores of a large network, beside what torch offers for it."""
    name, shape = ("lenet-300-100", (1, 28, 28)) if context.rehearse else (SELECTED, (3, 32, 32))

    @functools.cache
    def scores() -> tuple[Tensor, dict[str, Tensor]]:
        shapes = scoring.prunable_shapes(name, shape)
        generator = torch.Generator(context.device).manual_seed(0)
        flat = torch.rand(sum(map(torch.Size.numel, shapes.values())), device=context.device, generator=generator)
        parts = flat.split([size.numel() for size in shapes.values()])
        return flat, {key: part.view(size) for (key, size), part in zip(shapes.items(), parts, strict=True)}

    @functools.cache
    def seconds(method: str) -> tuple[float, float, int | None]:
        flat, parts = scores()
        count = round(DENSITY * len(flat))
        ways: dict[str, Callable[[], object]] = {
            "select": lambda: scoring.select(parts, count),
            "torch.kthvalue": lambda: flat.kthvalue(len(flat) - count + 1),
            "torch.topk": lambda: flat.topk(count, sorted=False),
            "torch.sort": lambda: flat.sort(),
            "one read": lambda: [part.sum() for part in parts.values()],
        }
        found = engine.repeat(ways[method], context.device, rounds=3 if context.rehearse else 20, budget=2.0)
        return found.median, found.iqr, found.peak_bytes

    for method in ("select", "torch.kthvalue", "torch.topk", "torch.sort", "one read"):

        def run(method: str = method) -> Finding:
            median, iqr, peak = seconds(method)
            values = {"scores": len(scores()[0]), "seconds": median, "IQR seconds": iqr, "peak bytes": peak}
            return Finding({**values, "times select": median / seconds("select")[0]}, bar="seconds")

        yield Piece(f"selection of {100 * DENSITY:.0f} % of {name}", method, run, needs=6)
