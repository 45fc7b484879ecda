"""Networks trained together come out as each would alone."""

import copy
import dataclasses
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.training import equivalence, layout, stacked_layers, trainable_groups
from pai_bench.training.batches import Order
from pai_bench.training.loop import History
from pai_bench.training.protocol import Protocol
from pai_bench.training.snapshot import non_tensor_state
from pai_bench.training.trainer import train, train_together

PROTOCOL = Protocol(name="test", epochs=2, batch_size=8, learning_rate=0.05, weight_decay=0.01)
LANES = 3


class Rows(nn.Module):
    """A recurrent network that reads an image row by row."""

    def __init__(self, kind: Any, features: int, classes: int) -> None:
        super().__init__()
        self.cells: nn.Module = kind(features, 7, num_layers=2, batch_first=True)
        self.head = nn.Linear(7, classes)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.cells(x.flatten(1, 2))[0][:, -1])


def data(*shape: int) -> pb.DataSet:
    """Images of 3 classes in double precision, so that only the order of sums can make a difference."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(37, *shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 3, (37,), generator=generator)
    return pb.DataSet("noise", Split(inputs, targets), Split(inputs[:11], targets[:11]), num_classes=3)


def network(name: str, seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(seed)
    if name in ("LSTM", "GRU", "RNN"):
        return Rows(getattr(nn, name), 6, 3).double(), (1, 5, 6)
    shape = {"resnet-20": (3, 8, 8), "lenet-300-100": (1, 6, 6)}.get(name, (1, 28, 28))
    return pb.create_model(name, input_shape=shape, num_classes=3, seed=seed).double(), shape


def masks_of(models: list[nn.Module]) -> list[dict[str, Tensor] | None]:
    generator = torch.Generator().manual_seed(2)
    found: list[dict[str, Tensor] | None] = [None]
    for model in models[1:]:
        weights = {n: p for n, p in model.named_parameters() if p.dim() > 1}
        found.append({n: torch.rand(p.shape, generator=generator) > 0.4 for n, p in weights.items()})
    return found


@pytest.fixture(autouse=True)
def _doubles() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def both(name: str, protocol: Protocol = PROTOCOL) -> tuple[list[Any], list[Any], list[History], list[History]]:
    """Networks trained one by one and together, and their histories."""
    (alone, together) = ([network(name, seed)[0] for seed in range(LANES)] for _ in range(2))
    masks, examples = masks_of(alone), data(*network(name, 0)[1])
    apart = [train(m, examples, protocol, mask=masks[i], seed=i) for i, m in enumerate(alone)]
    joint = train_together(together, examples, protocol, masks=masks, orders=[Order(i) for i in range(LANES)])
    return alone, together, apart, joint


class Words(nn.Module):
    """A network that reads tokens, of which one is padding."""

    def __init__(self, padding: int | None) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 5, padding_idx=padding), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.table(x).mean(1).tanh())


def sentences() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 9, (37, 6), generator=generator), torch.randint(0, 3, (37,), generator=generator)


@pytest.mark.parametrize("padding", [None, 0, 4, -1])
def test_padding_is_not_trained_in_any_lane(padding: int | None) -> None:
    """`torch.vmap` loses the place of the padding token in all lanes but the first."""
    torch.manual_seed(0)
    alone = [Words(padding) for _ in range(LANES)]
    together = copy.deepcopy(alone)
    split = Split(*sentences())
    examples = pb.DataSet("words", split, split, num_classes=3)
    for i, model in enumerate(alone):
        train(model, examples, PROTOCOL, seed=i)
    orders = [Order(i) for i in range(LANES)]
    train_together(together, examples, PROTOCOL, masks=[None] * LANES, orders=orders)
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_recurrent_networks_may_share_a_program(name: str) -> None:
    examples = data(*network(name, 0)[1])
    inputs, targets = (part[:8] for part in examples.train)
    apart, together = ([network(name, seed)[0] for seed in range(2)] for _ in range(2))
    assert equivalence.difference(apart, together, inputs, targets) is None


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_recurrent_networks_in_lanes_of_single_precision_warn_of_nothing(name: str) -> None:
    models = [network(name, seed)[0].float() for seed in range(2)]
    lanes, inputs = trainable_groups.StackedModels(models, [None] * 2), torch.randn(2, 8, 1, 5, 6, dtype=torch.float32)
    torch.autograd.grad(lanes.losses(inputs, torch.zeros(2, 8, dtype=torch.long)).sum(), list(lanes.parameters))
    with torch.no_grad():
        found = lanes.logits(inputs, by_lane=True)
        for model, mine, x in zip(models, found, inputs, strict=True):
            torch.testing.assert_close(mine, model.eval()(x))


@pytest.mark.filterwarnings("default")
def test_what_a_network_itself_warns_of_in_lanes_is_said_once() -> None:
    class Warns(Rows):
        def forward(self, x: Tensor) -> Any:
            warnings.warn("mine", UserWarning, stacklevel=1)
            return super().forward(x)

    lanes = trainable_groups.StackedModels([Warns(nn.LSTM, 6, 3) for _ in range(2)], [None] * 2)

    def steps() -> None:
        warnings.simplefilter("default")
        for _ in range(3):
            lanes.losses(torch.randn(2, 8, 1, 5, 6), torch.zeros(2, 8, dtype=torch.long))

    with pytest.warns(UserWarning, match="mine") as seen:
        steps()
    assert len(seen) == 1


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_stack_of_recurrent_networks_keeps_nothing_but_tensors(kind: Any) -> None:
    """Or else none of its steps would be recorded on a device."""
    lanes = trainable_groups.StackedModels([Rows(kind, 6, 3).float() for _ in range(2)], [None] * 2)
    inputs, states = torch.randn(2, 8, 1, 5, 6, dtype=torch.float32), []
    for _ in range(3):
        equivalence.steps(lanes, inputs, torch.zeros(2, 8, dtype=torch.long))
        states.append(non_tensor_state(lanes.module, attributes=True))
    assert states[0] == states[1] == states[2]


class Shifting(nn.Module):
    """Takes away a mean, which it follows in a buffer that is not saved."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.register_buffer("mean", torch.zeros(6), persistent=False)

    def forward(self, x: Tensor) -> Any:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.flatten(1).mean(0).detach()
        return self.head(x.flatten(1) - self.mean)


class Clipped(nn.Module):
    """Clips the gradient of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.head.weight.register_hook(lambda gradient: gradient.clamp(-1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.head(x.flatten(1))


def test_what_a_lane_would_lose_is_seen() -> None:
    inputs, targets = (part[:8] for part in data(1, 2, 3).train)
    shifting = [[Shifting().double() for _ in range(2)] for _ in range(2)]
    assert equivalence.difference(shifting[0], shifting[1], inputs, targets) is not None
    clipped = [Clipped().double() for _ in range(2)]
    with pytest.raises(pb.UserError, match=r"'head.weight' has a hook on its gradient"):
        equivalence.difference(clipped, clipped, inputs, targets)


class Odd(nn.Module):
    """A weight of five dimensions beside a two-dimensional convolution, and a count of evaluations."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.shift = nn.Parameter(torch.zeros(1, 1, 4, 1, 1))
        self.head = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        if not self.training:
            self.seen += 1
        return self.head((self.conv(x) + self.shift[0]).amax((2, 3)))


def test_laying_out_weights_changes_nothing_else() -> None:
    model = Odd().double()
    layout.prepare_layout([model], data(1, 8, 8).train.inputs[:2])
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.seen


def test_a_small_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs, targets = (part[:8] for part in sentences())
    models = [Words(0) for _ in range(2)]
    assert equivalence.difference(copy.deepcopy(models), copy.deepcopy(models), inputs, targets) is None
    monkeypatch.setattr(
        stacked_layers.StackedLayers, "__torch_function__", lambda _s, f, _t, a=(), k=None: f(*a, **(k or {}))
    )
    assert (
        equivalence.difference(models, copy.deepcopy(models), inputs, targets)
        == "in lanes, its table.weight would differ"
    )


class Noisy(TorchFunctionMode):
    """Convolutions in single precision with other roundings in every call, as large as those of TF32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is not F.conv2d or found.dtype != torch.float32:
            return found
        return found * (1 + 2**-10 * torch.randn(1, generator=self.chance))

    chance = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("seed", range(2))
def test_the_rounding_of_convolutions_is_no_difference(seed: int) -> None:
    """On a GPU, TF32 rounds the factors of convolutions to 10 bits, and sums are taken in another order."""
    torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 3

    def resnets() -> list[nn.Module]:
        shape = (3, 16, 16)
        return [pb.create_model("resnet-20", input_shape=shape, num_classes=3, seed=seed + i) for i in range(2)]

    with Noisy():
        assert equivalence._difference(resnets(), resnets(), inputs, targets) is not None  # the rounding is there
        assert equivalence.difference(resnets(), resnets(), inputs, targets) is None


def test_a_network_that_holds_single_precision_is_compared_in_it() -> None:
    torch.set_default_dtype(torch.float32)

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.projection = nn.Linear(4, 3), torch.linspace(-1, 1, 24).view(6, 4)

        def forward(self, x: Tensor) -> Any:
            return self.head(x @ self.projection)

    inputs, targets = torch.linspace(0, 1, 48).view(8, 6), torch.arange(8) % 3
    model = Fixed()
    assert not equivalence.runs_in_double(model, inputs.double())
    apart, together = ([copy.deepcopy(model) for _ in range(2)] for _ in range(2))
    assert equivalence.difference(apart, together, inputs, targets) is None
    assert model.head.weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5-caffe", "resnet-20", "LSTM", "GRU", "RNN"])
def test_a_lane_is_what_its_network_would_be_alone(name: str) -> None:
    alone, together, apart, joint = both(name)
    for one, other in zip(alone, together, strict=True):
        for (key, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=key)
    for first, second in zip(apart, joint, strict=True):
        assert first.images == second.images == 2 * 32
        for a, b in zip(first.epochs, second.epochs, strict=True):
            assert dataclasses.astuple(a) == pytest.approx(dataclasses.astuple(b), rel=1e-8)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam", "learning_rate": 0.01},
        {"nesterov": True, "lr_schedule": "steps", "milestones": (0.5,)},
        {"iterations": 7, "lr_schedule": "cosine"},
    ],
)
def test_a_lane_is_the_same_with_other_optimisers_and_lengths(changes: dict[str, Any]) -> None:
    alone, together, apart, joint = both("lenet-300-100", dataclasses.replace(PROTOCOL, **changes))
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    assert [len(h.epochs) for h in apart] == [len(h.epochs) for h in joint] == [2] * LANES


def test_a_diverging_lane_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [network("lenet-300-100", seed)[0] for seed in range(LANES)]
    alone = [network("lenet-300-100", seed)[0] for seed in range(LANES)]
    for some in (models, alone):
        with torch.no_grad():
            next(some[1].parameters()).mul_(1e200)
    examples, seen = data(1, 6, 6), []
    histories = train_together(
        models,
        examples,
        PROTOCOL,
        masks=[None] * LANES,
        orders=[Order(i) for i in range(LANES)],
        on_epoch=lambda epochs: seen.append([epoch is None for epoch in epochs]),
    )
    assert seen == [[False, True, False]] * 2
    assert histories[1].diverged is not None
    assert "diverged at step" in histories[1].diverged
    assert histories[1].epochs == ()
    for i in (0, 2):
        history = train(alone[i], examples, PROTOCOL, seed=i)
        assert histories[i].diverged is None
        assert [e.test_loss for e in history.epochs] == pytest.approx([e.test_loss for e in histories[i].epochs])


def test_lanes_that_all_diverge_end_early() -> None:
    models = [network("lenet-300-100", seed)[0] for seed in range(2)]
    protocol = dataclasses.replace(PROTOCOL, learning_rate=1e300, epochs=50)
    histories = train_together(models, data(1, 6, 6), protocol, masks=[None] * 2, orders=[Order(0), Order(1)])
    assert all(h.diverged is not None and h.images <= 2 * 32 for h in histories)


def test_each_lane_has_its_own_part_of_the_training_set() -> None:
    """Images are normalised over the part that is used, as they are for a network trained on that part alone."""
    torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (60, 1, 6, 6), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, 3, (60,), generator=generator)
    images = pb.DataSet("grey", Split(inputs, targets), Split(inputs[:20], targets[:20]), num_classes=3)

    def make(seed: int) -> nn.Module:
        return pb.create_model("lenet-300-100", input_shape=(1, 6, 6), num_classes=3, seed=seed)

    alone, together = [make(i) for i in range(LANES)], [make(i) for i in range(LANES)]
    protocol = dataclasses.replace(PROTOCOL, augmentation="flip-crop")
    parts = [images.chosen(0.7, seed=i) for i in range(LANES)]
    orders = [Order(i, part) for i, part in enumerate(parts)]
    joint = train_together(together, images, protocol, masks=[None] * LANES, orders=orders)
    for i, (one, other) in enumerate(zip(alone, together, strict=True)):
        history = train(one, images.subset(0.7, seed=i), protocol, seed=i)
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
        assert [e.test_loss for e in joint[i].epochs] == pytest.approx([e.test_loss for e in history.epochs], rel=1e-3)


def test_networks_that_draw_at_random_are_refused_a_lane() -> None:
    equivalence.refuse_random_layers(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)))
    for part in (nn.Dropout(0.5), nn.LSTM(2, 2, num_layers=2, dropout=0.1)):
        with pytest.raises(pb.UserError, match=r"'1' draws at random"):
            equivalence.refuse_random_layers(nn.Sequential(nn.Linear(2, 2), part))
