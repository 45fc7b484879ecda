"""Fifty masked steps of every kind beside a plain loop with torch's own optimisers.

What a step should give is computed in float64 on the CPU. Nobody can be nearer to it than rounding allows, and what
that is, the plain loop itself shows: in the same precision on the same device, a few times, with the examples of each
batch in another order, which changes roundings and nothing else. Ours may be `FACTOR` times as far as the farthest.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.gpu import engine
from benchmarks.gpu.engine import Precision
from benchmarks.gpu.stage import Context, Finding, Piece

STEPS, BATCH, SHAPE, CLASSES = 50, 64, (3, 8, 8), 10
FACTOR, LEAST = 4.0, 1e-6
NETWORKS, ORDERS = 3, 4
"""Networks that are trained together, and runs of the plain loop for each."""

TINY = 2, 2
"""The same in a rehearsal."""

OPTIMIZERS = ("sgd", "nesterov", "adam")
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
WAYS: tuple[tuple[engine.Way, bool], ...] = (
    *(("alone", False), ("alone", True), ("stacked", False), ("stacked", True)),
    *(("stacked channels-last", True), ("branches", False), ("branches", True)),
)
"""Ways of training, and whether the step is recorded."""

ERROR, PLAIN, REMOVED = "error", "plain loop's error", "removed weights that are not zero"

State = dict[str, Tensor]


class Residual(nn.Module):
    """Convolutions with batch norm, a shortcut and a linear layer; smooth, so that rounding is not made larger."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.third = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (16, 16, 32))
        self.last = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norms[0](self.first(x)))
        x = F.silu(self.norms[1](self.second(x)) + x)
        x = F.silu(self.norms[2](self.third(x)))
        logits: Tensor = self.last(x.mean((2, 3)))
        return logits


def pieces(context: Context) -> Iterator[Piece]:
    """Every optimiser in every precision, trained in every way."""
    for precision in PRECISIONS:
        for optimizer in OPTIMIZERS:
            for way, recorded in WAYS:

                def run(
                    optimizer: str = optimizer,
                    precision: Precision = precision,
                    way: engine.Way = way,
                    recorded: bool = recorded,
                ) -> Finding:
                    sizes = TINY if context.rehearse else (NETWORKS, ORDERS)
                    return beside_plain(context.device, optimizer, precision, way, recorded=recorded, sizes=sizes)

                name = f"{optimizer}, {way}{', recorded' * recorded}"
                cuda = recorded or precision == "tf32"
                yield Piece(f"{STEPS} steps, {precision}", name, run, needs=4, cuda=cuda)


def beside_plain(
    device: torch.device,
    optimizer: str,
    precision: Precision,
    way: engine.Way,
    *,
    recorded: bool,
    sizes: tuple[int, int] = (NETWORKS, ORDERS),
) -> Finding:
    """How far networks that our step has trained are from float64, and how far those of a plain loop are.

    `sizes`: how many networks, where several are trained, and how many runs of the plain loop for each.
    """
    networks, orders = sizes
    count = 1 if way == "alone" else networks
    runs = itertools.product(range(count), range(orders))
    plain = max(plain_error(device, optimizer, precision, network, order) for network, order in runs)
    models = [network_of(i, device) for i in range(count)]
    masks = [mask_of(i, device) for i in range(count)]
    removed = train(models, masks, optimizer, precision, way, recorded=recorded, device=device)
    error = max(distance(state(model), optimizer, i) for i, model in enumerate(models))
    limits = {ERROR: FACTOR * plain + LEAST, REMOVED: 0.0}
    return Finding({ERROR: error, PLAIN: plain, REMOVED: removed}, limits, ERROR)


def train(
    models: Sequence[nn.Module],
    masks: Sequence[Mapping[str, Tensor]],
    optimizer: str,
    precision: Precision,
    way: engine.Way,
    *,
    recorded: bool,
    device: torch.device,
) -> int:
    """Train `models` by our step, in place; how many removed weights were ever not zero after one."""
    protocol = engine.protocol(optimizer, precision, batch_size=BATCH)
    with engine.arithmetic(precision, device):
        program = engine.program(models, masks, way)
        program.enforcer()
        step = engine.step(program, protocol, device, recorded=recorded)
        wrong = torch.zeros((), dtype=torch.int64, device=device)
        for i in range(STEPS):
            parts = [batch_of(network, i, device) for network in range(len(models))]
            inputs, targets = (torch.stack(part) for part in zip(*parts, strict=True))
            step(inputs, targets, protocol.learning_rate)
            program.finish()  # what is in the program is now in the networks, too
            wrong += removed_but_not_zero(models, masks)
    if recorded and not engine.is_recorded(step):
        raise RuntimeError("the step was not recorded")
    return int(wrong)


@torch.no_grad()
def removed_but_not_zero(models: Sequence[nn.Module], masks: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """How many weights that a mask removes are not zero now."""
    pairs = [
        (model.get_parameter(name), keep)
        for model, mask in zip(models, masks, strict=True)
        for name, keep in mask.items()
    ]
    return torch.stack([weight.masked_fill(keep, 0.0).count_nonzero() for weight, keep in pairs]).sum()


@functools.cache
def plain_error(device: torch.device, optimizer: str, precision: Precision, network: int, order: int) -> float:
    """How far the plain loop is from float64."""
    model = network_of(network, device)
    with torch_products(precision):
        plain_loop(model, mask_of(network, device), optimizer, network, order, bf16=precision == "bf16")
    return distance(state(model), optimizer, network)


@functools.cache
def exact(optimizer: str, network: int) -> State:
    """What the plain loop gives in float64 on the CPU."""
    cpu = torch.device("cpu")
    model = network_of(network, cpu).double()
    plain_loop(model, mask_of(network, cpu), optimizer, network, order=0)
    return state(model)


def plain_loop(
    model: nn.Module, mask: Mapping[str, Tensor], optimizer: str, network: int, order: int, *, bf16: bool = False
) -> None:
    """The loop that anybody would write."""
    protocol = engine.protocol(optimizer, batch_size=BATCH)
    rate, decay, momentum = protocol.learning_rate, protocol.weight_decay, protocol.momentum
    steps: torch.optim.Optimizer = torch.optim.SGD(
        model.parameters(), rate, momentum=momentum, weight_decay=decay, nesterov=optimizer == "nesterov"
    )
    if optimizer == "adam":
        steps = torch.optim.Adam(model.parameters(), rate, betas=(momentum, 0.999), weight_decay=decay)
    weights = dict(model.named_parameters())
    first = next(model.parameters())
    device, kind = first.device, first.dtype

    @torch.no_grad()
    def remove() -> None:
        for name, keep in mask.items():
            weights[name].mul_(keep)

    model.train()
    remove()
    for i in range(STEPS):
        inputs, targets = batch_of(network, i, device, order)
        steps.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(inputs.to(kind)), targets)
        loss.backward()
        steps.step()
        remove()


@contextmanager
def torch_products(precision: Precision) -> Iterator[None]:
    """Torch's own switches for products, set here so that ours are not compared with themselves.

    The older ones are set, too: where the two kinds differ, reading one is an error, and the optimisers read it.
    """
    backends: Any = torch.backends
    older = backends.cuda.matmul, backends.cudnn
    newer = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn
    before = [one.allow_tf32 for one in older], [one.fp32_precision for one in newer]
    rounds = precision == "tf32"

    def write(switches: Sequence[bool], precisions: Sequence[str]) -> None:
        for one, switch in zip(older, switches, strict=True):  # first, since they set some of the newer ones
            one.allow_tf32 = switch
        for one, value in zip(newer, precisions, strict=True):
            one.fp32_precision = value

    write([rounds] * 2, ["tf32" if rounds else "ieee"] * 3)
    try:
        yield
    finally:
        write(*before)


def distance(found: State, optimizer: str, network: int) -> float:
    """The largest distance of a tensor from float64, over that by which it has changed."""
    start, wanted = state(network_of(network, torch.device("cpu"))), exact(optimizer, network)
    parts = []
    for name, value in wanted.items():
        change = float((value - start[name]).norm())
        parts.append(float((found[name] - value).norm()) / max(change, 1e-3))
    return max(parts)


def state(model: nn.Module) -> State:
    """Parameters and running statistics, in float64 on the CPU."""
    return {name: t.detach().double().cpu() for name, t in model.state_dict().items() if t.is_floating_point()}


def network_of(network: int, device: torch.device) -> nn.Module:
    """A freshly initialised network."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(network)
        return Residual().to(device)


def mask_of(network: int, device: torch.device) -> dict[str, Tensor]:
    """A mask of a network that keeps half of its weights, another one for each."""
    generator = torch.Generator().manual_seed(100 + network)
    weights = {name: w for name, w in network_of(network, torch.device("cpu")).named_parameters() if w.dim() > 1}
    return {name: (torch.rand(w.shape, generator=generator) < 0.5).to(device) for name, w in weights.items()}


def batch_of(network: int, step: int, device: torch.device, order: int = 0) -> tuple[Tensor, Tensor]:
    """The examples of a step: classes differ in their mean; another order takes the same ones another way round."""
    generator = torch.Generator().manual_seed(1000 * network + step % 10)
    targets = torch.randint(0, CLASSES, (BATCH,), generator=generator)
    inputs = torch.randn(BATCH, *SHAPE, generator=generator) + 0.3 * (targets - CLASSES / 2).view(-1, 1, 1, 1)
    if order:
        shuffled = torch.randperm(BATCH, generator=torch.Generator().manual_seed(order))
        inputs, targets = inputs[shuffled], targets[shuffled]
    return inputs.to(device), targets.to(device)
