"""What the run uses of pai-bench's inside to train: who changes the training engine changes this file alone."""

import copy
import dataclasses
import functools
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

import pai_bench as pb
from benchmarks.gpu.stage import SkippedError
from pai_bench.data import Split
from pai_bench.execution import estimate as estimates
from pai_bench.execution.autotune import choose
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.graph.flops import flops
from pai_bench.models import find_model
from pai_bench.models.create import model_version
from pai_bench.scoring import prunable_parameters
from pai_bench.support import memory, timing
from pai_bench.support import precision as precisions
from pai_bench.support.precision import Precision as Precision  # for the checks, too
from pai_bench.support.timing import Timing, measured, synchronise
from pai_bench.support.torch_internals import clear_cublas_workspaces
from pai_bench.training import trainable_groups
from pai_bench.training.batches import Batches, Order
from pai_bench.training.layout import lay_out as lay_out_in
from pai_bench.training.layout import prepare_layout
from pai_bench.training.protocol import Augmentation, Protocol
from pai_bench.training.recorded import WARM_UP as BEFORE_RECORDING
from pai_bench.training.recorded import Recorded
from pai_bench.training.step import Step
from pai_bench.training.trainable_groups import TrainableGroup

Way = Literal["alone", "stacked", "stacked channels-last", "branches"]
Layout = Literal["contiguous", "channels-last"]
TakeStep = Callable[[Tensor, Tensor, float], Tensor]


def random_images(shape: tuple[int, ...], count: int, *, classes: int = 10, name: str = "random") -> pb.DataSet:
    """A data set of random images, whose classes differ in their mean."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(count) % classes
    noise = torch.randint(0, 128, (count, *shape), generator=generator)
    bias = (targets * (127 // classes)).view(-1, *(1,) * len(shape))
    split = Split((noise + bias).to(torch.uint8), targets)
    return pb.DataSet(name, split, Split(*(t[: max(classes, count // 5)] for t in split)), num_classes=classes)


@functools.cache
def data_set(name: str) -> pb.DataSet:
    """A data set, read once."""
    return pb.load_data(name)


def random_mask(model: nn.Module, density: float = 0.5) -> dict[str, Tensor]:
    """A random mask of the network's prunable weights, the same on every device."""
    generator = torch.Generator().manual_seed(1)
    weights = prunable_parameters(model)
    return {n: (torch.rand(w.shape, generator=generator) < density).to(w.device) for n, w in weights.items()}


def protocol(
    optimizer: str = "sgd",
    precision: Precision = "fp32",
    *,
    batch_size: int = 64,
    augmentation: Augmentation = "none",
    epochs: int = 1,
) -> Protocol:
    """A protocol with a constant learning rate: ``sgd`` with momentum, ``nesterov``, or ``adam``."""
    adam = optimizer == "adam"
    return Protocol(
        name="",
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=1e-3 if adam else 0.02,
        lr_schedule="constant",
        optimizer="adam" if adam else "sgd",
        nesterov=optimizer == "nesterov",
        precision=precision,
        augmentation=augmentation,
    )


def arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """A block in which training computes in `precision`."""
    return precisions.arithmetic(precision, device)


def lay_out(model: nn.Module, layout: Layout) -> None:
    """Lay out a network's weights of convolutions."""
    lay_out_in(model, torch.channels_last if layout == "channels-last" else torch.contiguous_format)


def default_layout(model: nn.Module, data: pb.DataSet) -> None:
    """Lay out a network's weights as a training that nobody has told how does."""
    prepare_layout([model], data.normalised(data.train.inputs[:2]))


def program(models: Sequence[nn.Module], masks: Sequence[Mapping[str, Tensor] | None], way: Way) -> TrainableGroup:
    """Networks that are trained together in some way, or SkippedError if this version does not have it."""
    if way == "alone":
        return trainable_groups.SingleModel(models[0], masks[0])
    if way == "branches":
        return trainable_groups.Branches(models, masks)
    for model in models:
        lay_out(model, "channels-last" if way == "stacked channels-last" else "contiguous")
    return trainable_groups.StackedModels(models, masks)


def step(program: TrainableGroup, protocol: Protocol, device: torch.device, *, recorded: bool) -> TakeStep:
    """What takes a step: as it is, or on CUDA recorded as a graph after the first ones."""
    plain = Step(program, protocol)
    if not recorded:
        return plain
    if device.type != "cuda":
        raise SkippedError("needs CUDA")
    return Recorded(plain)


def is_recorded(step: TakeStep) -> bool:
    """Whether a step is played from a graph by now."""
    return isinstance(step, Recorded) and step.is_recorded


WARM_UP = BEFORE_RECORDING + 3
"""Steps after which a step is as it will be."""


def batches(data: pb.DataSet, protocol: Protocol, networks: int = 1) -> Batches:
    """The training batches of some networks, each in its own order."""
    return Batches(data, [Order(i) for i in range(networks)], protocol)


def endless(made: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch."""
    return made.endless()


def train(model: nn.Module, data: pb.DataSet, protocol: Protocol, mask: Mapping[str, Tensor] | None = None) -> None:
    """Train a network as a trial does."""
    from pai_bench.training.trainer import train as train_alone

    train_alone(model, data, protocol, mask=mask)


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """A block in which cuDNN takes algorithms that give the same bits every time, or need not do so."""
    flags = torch.backends.cudnn
    before = flags.deterministic, flags.benchmark
    flags.deterministic, flags.benchmark = on, False
    try:
        yield
    finally:
        flags.deterministic, flags.benchmark = before


def settle_memory(device: torch.device) -> tuple[int, int]:
    """Bytes of the device that tensors hold, and that torch holds, after all that can be given back was."""
    gc.collect()
    if device.type != "cuda":
        return 0, 0
    torch.cuda.synchronize(device)
    clear_cublas_workspaces()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)


@functools.cache
def model(name: str, shape: tuple[int, ...], seed: int = 0, classes: int = 10) -> nn.Module:
    """A network on the CPU; to be copied before it is changed."""
    return pb.create_model(name, input_shape=shape, num_classes=classes, seed=seed)


def built_once(name: str, shape: tuple[int, ...]) -> Callable[[tuple[int, ...], int], nn.Module]:
    """A function that builds a network of 100 million weights in no time, after the first: its initial weights stay."""
    canonical, builder = find_model(name)
    built: dict[tuple[tuple[int, ...], int], nn.Module] = {}

    def build(shape: tuple[int, ...], classes: int) -> nn.Module:
        if (shape, classes) not in built:
            built[shape, classes] = builder(shape, classes)
        return copy.deepcopy(built[shape, classes])

    build.__name__ = canonical
    vars(build)["version"] = model_version(name, shape)
    return build


def repeat(work: Callable[[], object], device: torch.device, *, rounds: int, budget: float) -> Timing:
    """Seconds of some work, after a warm-up, in so many rounds or about so many seconds."""
    return timing.repeat(work, device, rounds=rounds, budget=budget)


@dataclass(frozen=True)
class Cell:
    """One way of training some networks at once."""

    count: int = 1
    way: Way = "alone"
    precision: Precision = "fp32"
    layout: Layout = "channels-last"
    recorded: bool = True

    def __str__(self) -> str:
        networks = "1 network" if self.count == 1 else f"{self.count} networks, {self.way}"
        layout = f", {self.layout}" if self.way in ("alone", "branches") else ""
        return f"{networks}, {self.precision}{layout}, {'recorded' if self.recorded else 'eager'}"


@dataclass(frozen=True)
class Speed:
    """Seconds of a training step of one of the networks, all that run at once counted, and bytes of all of them."""

    seconds: float
    peak_bytes: int | None


def speed(model: nn.Module, data: pb.DataSet, protocol: Protocol, cell: Cell, *, seconds: float) -> Speed:
    """Measure a cell for about so many seconds, after a warm-up: batches, steps and exact zeros."""
    device = data.device
    protocol = dataclasses.replace(protocol, precision=cell.precision)
    models = [copy.deepcopy(model).to(device) for _ in range(cell.count)]
    for one in models:  # stacked ones are laid out as their way says
        lay_out(one, cell.layout)
    with arithmetic(cell.precision, device), measured(device, memory=device.type == "cuda") as whole:
        made = program(models, [random_mask(model, 0.1)] * cell.count, cell.way)
        take, stream = (
            step(made, protocol, device, recorded=cell.recorded),
            endless(batches(data, protocol, cell.count)),
        )

        def steps(number: int) -> float:
            synchronise(device)
            start = time.perf_counter()
            for _ in range(number):
                take(*next(stream), protocol.learning_rate)
            synchronise(device)
            return time.perf_counter() - start

        steps(WARM_UP)
        if cell.recorded and not is_recorded(take):
            raise SkippedError("its step is not recorded")
        pilot = steps(3) / 3
        number = max(2, round(seconds / 2 / pilot))
        found = min(steps(number), steps(number)) / number / cell.count
    return Speed(found, whole.peak_bytes)


@contextmanager
def skipped_without_memory(device: torch.device, what: str) -> Iterator[None]:
    """A block that is skipped where the device has no memory for it, and that leaves none of it behind."""
    try:
        yield
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
        raise SkippedError(f"no memory for {what}") from None
    finally:
        settle_memory(device)


def flops_of_step(model: nn.Module, shape: tuple[int, ...], batch: int) -> float:
    """Floating-point operations of a training step: three times those of a forward pass."""
    return 3.0 * batch * flops(copy.deepcopy(model), torch.zeros(1, *shape)).total


def chosen(
    build: Callable[[tuple[int, ...], int], nn.Module],
    data: pb.DataSet,
    protocol: Protocol,
    device: torch.device,
    *,
    count: int,
) -> Cell:
    """What ``auto`` chooses for `count` trials of a network: how many at once, in which way, how laid out."""
    sweep = pb.Sweep(
        criteria=["random"],
        models=[build],
        data=[data],
        sparsities=(0.9,),
        seeds=max(1, count // 2),  # and as many dense references
        protocol="openlth-resnet20" if protocol.augmentation == "flip-crop" else "snip-mnist",
        epochs=20,
        batch_size=protocol.batch_size,
        train_fraction=1.0,
        precision=protocol.precision,
        device=str(device),
        workers=1,
    )
    catalog = resolve(sweep)
    runner, trial = Runner(catalog), catalog.trials[0]
    plan = choose(runner, catalog.trials)
    networks, how = plan.lanes(trial), plan.engine(trial)
    layout: Layout = "channels-last" if how.channels_last else "contiguous"
    way: Way = "alone" if networks == 1 else how.together
    if way == "stacked" and layout == "channels-last" and convolves(runner.inputs.model(trial)):
        way = "stacked channels-last"
    return Cell(networks, way, protocol.precision, layout, recorded=device.type == "cuda")


def convolves(model: nn.Module) -> bool:
    """Whether a network has two-dimensional convolutions, the weights of which have a layout."""
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def trials(sweep: pb.Sweep) -> list[Trial]:
    """All trials of a sweep."""
    return resolve(sweep).trials


@dataclass(frozen=True)
class Estimated:
    """Seconds of the trials of a sweep that are missing, and how many of them are best trained together."""

    training: float
    evaluation: float
    scoring: float
    trials: int
    together: int
    failed: tuple[str, ...]


def estimate(sweep: pb.Sweep, stored: Set[str]) -> Estimated:
    """What the trials of a sweep that are not stored will take on its device."""
    catalog = resolve(sweep)
    missing = [trial for trial in catalog.trials if trial.identity not in stored]
    if not missing:
        return Estimated(0.0, 0.0, 0.0, 0, 1, ())
    found = estimates.estimate(Runner(catalog), missing)
    together = max(found.plan.lanes(trial) for trial in missing)
    return Estimated(found.training, found.evaluation, found.scoring, len(missing), together, found.failed)
