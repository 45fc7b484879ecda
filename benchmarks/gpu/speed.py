"""How fast the device trains: one way after the other, many networks at once, beside a DataLoader and the peak."""

import copy
import functools
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

import pai_bench as pb
from benchmarks.floors import Pictures, usual_steps
from benchmarks.gpu import engine
from benchmarks.gpu.engine import Cell, Precision
from benchmarks.gpu.stage import Context, Finding, Piece, SkippedError
from pai_bench.training.protocol import Protocol

RATE, SECONDS, PEAK = "network steps per second", "seconds", "TFLOP per second"

MOST = 30
"""Cells that one run measures at most; the next goes on with those behind."""

LOADER = "DataLoader loop"


@dataclass(frozen=True)
class Network:
    """A network that is trained on images."""

    name: str
    data: Literal["mnist", "cifar10"]
    precision: Precision
    """In which many are trained at once: the best for convolutional networks; as published for the LeNets."""
    cells: tuple[Cell, ...]
    together: int = 0
    """For how many trials ``auto`` is asked; 0 for none."""


def ladder(precision: Precision) -> tuple[Cell, ...]:
    """Layout, graph and precision one by one."""
    cells = (
        Cell(layout="contiguous", recorded=False),
        Cell(recorded=False),
        Cell(),
        Cell(precision="tf32"),
        Cell(precision=precision),
    )
    return tuple(dict.fromkeys(cells))


def many(precision: Precision, counts: Sequence[int], ways: Sequence[engine.Way]) -> tuple[Cell, ...]:
    """Several networks at once."""
    return tuple(Cell(count, way, precision) for count in counts for way in ways)


WAYS: tuple[engine.Way, ...] = ("branches", "stacked", "stacked channels-last")

SMALL = (Cell(), *many("fp32", (16,), WAYS[:2]), *many("fp32", (256,), ("stacked",)))

NETWORKS = (
    Network("resnet-20", "cifar10", "bf16", (*ladder("bf16"), *many("bf16", (16, 64), WAYS)), together=64),
    Network("lenet-300-100", "mnist", "fp32", SMALL, together=256),
    Network("lenet-5-caffe", "mnist", "fp32", SMALL, together=64),
    Network("lstm-s", "mnist", "fp32", (Cell(), *many("fp32", (16, 64), ("stacked",)))),
    Network("vgg-16-bn", "cifar10", "bf16", (Cell(precision="bf16"), *many("bf16", (16,), WAYS[:2]))),
    Network("resnet-18", "cifar10", "bf16", (Cell(precision="bf16"), *many("bf16", (16,), WAYS[:2]))),
)
LATER = (
    Network("resnet-20", "cifar10", "bf16", many("bf16", (4,), WAYS)),
    *(Network(name, "cifar10", "bf16", ladder("bf16")) for name in ("vgg-16-bn", "resnet-18")),
    *(Network(name, "mnist", "fp32", many("fp32", (4, 64, 256), ("stacked",))) for name in ("lenet-300-100", "lstm-s")),
    *(
        Network(name, "mnist", "fp32", many("fp32", (4, 16, 64), ("stacked", "branches")))
        for name in ("lenet-300-100", "lenet-5-caffe")
    ),
    *(Network(name, "cifar10", "bf16", many("bf16", (4, 64), WAYS)) for name in ("vgg-16-bn", "resnet-18")),
)
"""What a first run has no time for."""

TINY = (
    Network("resnet-20", "cifar10", "bf16", (*ladder("bf16")[:2], Cell(2, "stacked", "bf16", recorded=False))),
    Network("lenet-300-100", "mnist", "fp32", (Cell(recorded=False), Cell(2, "stacked", recorded=False)), together=4),
)

PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")


def pieces(context: Context) -> Iterator[Piece]:
    """Peaks, loops with a DataLoader, the cells that matter most, what ``auto`` makes of each, and the other cells."""
    for precision in PRECISIONS:

        def peak(precision: Precision = precision) -> Finding:
            return peak_of(context, precision)

        yield Piece("peak", precision, peak, cuda=precision == "tf32", needs=2)
    networks, later = (TINY, ()) if context.rehearse else (NETWORKS, LATER)
    judged = [network for network in networks if network.together]
    for network in judged:
        yield Piece(network.name, LOADER, loader(context, network), needs=1 if context.rehearse else 8)
    taken = itertools.count(1)
    for network in networks:
        yield from cells_of(context, [network], taken)
        if network in judged:
            yield Piece("auto", network.name, auto(context, network), needs=2 if context.rehearse else 60)
    known = [(network.name, cell) for network in networks for cell in network.cells]
    yield from cells_of(context, later, taken, known)


def cells_of(
    context: Context,
    networks: Sequence[Network],
    taken: Iterator[int],
    known: Sequence[tuple[str, Cell]] = (),
) -> Iterator[Piece]:
    """A piece for each cell of some networks, but for those that are `known`."""
    seen = set(known)
    for network in networks:
        for cell in network.cells:
            if (network.name, cell) not in seen:
                seen.add((network.name, cell))
                cuda = cell.recorded or cell.precision == "tf32"
                work = measure(context, network, cell, taken)
                yield Piece(network.name, str(cell), work, cuda=cuda, needs=0.5 if context.rehearse else 5)


def measure(context: Context, network: Network, cell: Cell, taken: Iterator[int]) -> Callable[[], Finding]:
    """Measure a cell, unless enough of them were."""

    def run() -> Finding:
        if next(taken) > MOST:
            raise SkippedError(f"{MOST} cells were measured in this run")
        return cell_finding(context, network, cell)

    return run


def cell_finding(context: Context, network: Network, cell: Cell) -> Finding:
    """How fast a cell is, beside the peak, the fastest network alone, and the loop with a DataLoader."""
    model, data = model_of(context, network), data_of(context, network)
    with engine.skipped_without_memory(context.device, f"{cell.count} networks"):
        found = engine.speed(model, data, protocol_of(context, network), cell, seconds=seconds_of(context))
    batch = protocol_of(context, network).batch_size
    values: dict[str, Any] = {
        SECONDS: found.seconds,
        RATE: 1 / found.seconds,
        "images per second": batch / found.seconds,
    }
    peak = measured(context, "peak").get(cell.precision, {}).get(PEAK)
    if peak:
        flops = engine.flops_of_step(on_cpu(context, network), data.input_shape, batch)
        values["share of peak"] = flops / found.seconds / (1e12 * peak)
    earlier = measured(context, network.name)
    alone = [of[SECONDS] for name, of in earlier.items() if name.startswith("1 network")]
    if alone and cell.count > 1:
        values["times the fastest alone"] = min(alone) / found.seconds
    if LOADER in earlier:
        values["times a DataLoader"] = earlier[LOADER][SECONDS] / found.seconds
    return Finding({**values, "peak bytes": found.peak_bytes}, bar=RATE)


def measured(context: Context, group: str) -> dict[str, dict[str, Any]]:
    """Values of what was measured on this device, by name, this time or earlier."""
    done = {e.key for e in context.ledger.entries.values() if e.status in ("passed", "measured") and e.group == group}
    found = {}
    for name, text in context.ledger.archive.texts.items():
        if name.startswith("benchmarks/"):
            raw = json.loads(text)
            if (raw["group"], raw["name"], raw["version"]) in done and raw["status"] in ("passed", "measured"):
                found[raw["name"]] = raw["values"]
    return found


def seconds_of(context: Context) -> float:
    """How long a cell is measured."""
    return 0.1 if context.rehearse else 2.0


def model_of(context: Context, network: Network) -> nn.Module:
    """A network on the device, the caller's own."""
    return copy.deepcopy(on_cpu(context, network)).to(context.device)


def on_cpu(context: Context, network: Network) -> nn.Module:
    """The network that all copies are made of."""
    return engine.model(network.name, data_of(context, network).input_shape)


def protocol_of(context: Context, network: Network) -> Protocol:
    """Batches and augmentation as published, with SGD."""
    images = network.data == "cifar10"
    batch = 20 if context.rehearse else 128 if images else 100
    return engine.protocol(
        batch_size=batch, precision=network.precision, augmentation="flip-crop" if images else "none"
    )


@functools.cache
def read(name: str, tiny: bool, device: torch.device) -> pb.DataSet:
    """A data set on the device, or a tiny one of its kind."""
    if tiny:
        return engine.random_images((3 if name == "cifar10" else 1, 8, 8), 200, name=f"tiny-{name}").to(device)
    return pb.load_data(name).to(device)


def data_of(context: Context, network: Network) -> pb.DataSet:
    """The data of a network."""
    return read(network.data, context.rehearse, context.device)


def peak_of(context: Context, precision: Precision) -> Finding:
    """The most that the device does: a large matrix product."""
    size = 256 if context.rehearse else 8192
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(size, size, device=context.device, dtype=kind) for _ in range(2))
    with engine.arithmetic("tf32" if precision == "tf32" else "fp32", context.device):
        found = engine.repeat(lambda: one @ other, context.device, rounds=10, budget=2.0)
    rate = 2 * size**3 / min(found.seconds)
    return Finding({SECONDS: min(found.seconds), PEAK: rate / 1e12}, bar=PEAK)


def loader(context: Context, network: Network) -> Callable[[], Finding]:
    """Training steps by the loop that most people would write, as many as some seconds hold."""

    def run() -> Finding:
        data, protocol = data_of(context, network), protocol_of(context, network)
        inputs, targets = (tensor.cpu() for tensor in data.train)
        pictures = Pictures(inputs, targets, augment=protocol.augmentation != "none")
        workers = 0 if context.rehearse else min(8, os.cpu_count() or 1)
        steps = usual_steps(pictures, model_of(context, network), protocol.batch_size, context.device, workers)
        for _ in range(5):
            next(steps)
        start, done, wanted = time.perf_counter(), 0, 0.1 if context.rehearse else 3.0
        while time.perf_counter() - start < wanted:
            next(steps)
            done += 1
        if context.cuda:
            torch.cuda.synchronize(context.device)
        seconds = (time.perf_counter() - start) / done
        steps.close()  # type: ignore[attr-defined]  # of a generator; it ends the workers
        rate = {SECONDS: seconds, RATE: 1 / seconds, "images per second": protocol.batch_size / seconds}
        return Finding({**rate, "workers": workers}, bar=RATE)

    return run


def auto(context: Context, network: Network) -> Callable[[], Finding]:
    """What ``auto`` chooses for many trials, beside the fastest cell of the same precision that was measured."""

    def run() -> Finding:
        data, protocol = data_of(context, network), protocol_of(context, network)
        build = engine.built_once(network.name, data.input_shape)
        cell = engine.chosen(build, data, protocol, context.device, count=network.together)
        cells = {
            name: of[SECONDS]
            for name, of in measured(context, network.name).items()
            if f", {network.precision}," in name and int(name.partition(" ")[0]) <= network.together
        }
        if not cells:
            raise SkippedError("no cell was measured that it could be compared with")
        fastest = min(cells, key=lambda name: cells[name])
        own = engine.speed(model_of(context, network), data, protocol, cell, seconds=seconds_of(context))
        values = {
            "chosen": str(cell),
            SECONDS: own.seconds,
            "fastest": fastest,
            "fastest seconds": cells[fastest],
            "times as slow": own.seconds / cells[fastest],
        }
        most = TINY_SLOWER if context.rehearse else SLOWER
        return Finding(values, {"times as slow": most}, bar="times as slow")

    return run


SLOWER = 1.1
"""By how much what ``auto`` has chosen may be slower than the fastest, which measuring itself does."""

TINY_SLOWER = 10.0
"""The same in a rehearsal, whose milliseconds on a busy machine tell nothing."""
