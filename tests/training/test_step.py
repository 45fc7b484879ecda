"""Precision, compiled steps, and recorded ones on a GPU: the same training in other arithmetic."""

import copy
import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.training import recorded
from pai_bench.training import step as steps
from pai_bench.training.batches import Order
from pai_bench.training.loop import History
from pai_bench.training.protocol import Protocol
from pai_bench.training.snapshot import non_tensor_state
from pai_bench.training.trainable_groups import SingleModel
from pai_bench.training.trainer import Engine, train, train_together

PROTOCOL = Protocol(name="test", epochs=3, batch_size=8, learning_rate=0.05, weight_decay=0.01)
GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def data() -> pb.DataSet:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (37, 3, 8, 8), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, 3, (37,), generator=generator)
    return pb.DataSet("noise", Split(inputs, targets), Split(inputs[:11], targets[:11]), num_classes=3)


def trained(device: str, name: str = "resnet-20", lanes: int = 1, **changes: Any) -> tuple[list[nn.Module], History]:
    kinds: tuple[Any, ...] = ("together", "compile")
    engine = Engine(**{key: changes.pop(key) for key in kinds if key in changes})
    protocol = dataclasses.replace(PROTOCOL, **changes)
    models = [pb.create_model(name, input_shape=(3, 8, 8), num_classes=3, seed=i).to(device) for i in range(lanes)]
    examples = data().to(device)
    if lanes == 1:
        return models, train(models[0], examples, protocol, seed=0, engine=engine)
    orders = [Order(i) for i in range(lanes)]
    return models, train_together(models, examples, protocol, masks=[None] * lanes, orders=orders, engine=engine)[0]


def close(one: nn.Module, other: nn.Module, tolerance: float) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a.float().cpu(), b.float().cpu(), atol=tolerance) for a, b in pairs)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("lanes", [1, 2])
def test_bfloat16_is_near_and_not_the_same(device: str, lanes: int) -> None:
    (one, *_), exact = trained(device, "lenet-300-100", lanes, learning_rate=0.005)
    (other, *_), rounded = trained(device, "lenet-300-100", lanes, learning_rate=0.005, precision="bf16")
    assert not close(one, other, 1e-7)
    assert close(one, other, 2e-2)
    assert all(weight.dtype == torch.float32 for weight in other.parameters())
    assert rounded.epochs[0].train_loss == pytest.approx(exact.epochs[0].train_loss, rel=0.05)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_bfloat16_goes_on_learning_after_its_first_step(device: str) -> None:
    changes: dict[str, Any] = {"learning_rate": 0.05, "epochs": 8}
    curves = []
    for lanes, precision in ((1, "fp32"), (1, "bf16"), (2, "bf16")):
        _, history = trained(device, "lenet-300-100", lanes, precision=precision, **changes)
        curves.append([epoch.train_loss for epoch in history.epochs])
    exact, alone, together = curves
    assert alone == pytest.approx(exact, rel=0.1)
    assert together == pytest.approx(alone, rel=0.1)
    assert alone[-1] < 0.7 * alone[0]


def test_a_network_without_anything_to_train_is_named() -> None:
    model = pb.create_model("lenet-300-100", input_shape=(1, 12, 12), num_classes=3).requires_grad_(False)
    with pytest.raises(pb.UserError, match="there is nothing to train"):
        train(model, data(), PROTOCOL)


def test_tf32_is_for_cuda_devices() -> None:
    with pytest.raises(pb.UserError, match="precision tf32 is for CUDA devices, not cpu"):
        pb.run(pb.Sweep(precision="tf32", device="cpu"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # torch 2.11's own compiler calls it
@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_compiled_step_gives_the_same(device: str, lanes: int) -> None:
    (one, *_), _ = trained(device, "lenet-300-100", lanes)
    (other, *_), _ = trained(device, "lenet-300-100", lanes, compile=True)
    assert close(one, other, 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["lenet-300-100", "resnet-20"])
def test_recorded_steps_give_the_same(name: str, optimizer: str, lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[bool] = []
    real = recorded.Recorded._record

    def record(self: recorded.Recorded, *arguments: Any) -> bool:
        played.append(real(self, *arguments))
        return played[-1]

    monkeypatch.setattr(recorded.Recorded, "_record", record)
    one, _ = trained("cuda", name, lanes, optimizer=optimizer)
    assert played == [True]
    monkeypatch.setattr(recorded, "WARM_UP", 10**9)
    other, _ = trained("cuda", name, lanes, optimizer=optimizer)
    assert all(close(a, b, 1e-4) for a, b in zip(one, other, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("lanes", [1, 3])
def test_a_gpu_gives_what_the_cpu_gives(lanes: int) -> None:
    one, _ = trained("cuda", "lenet-300-100", lanes)
    other, _ = trained("cpu", "lenet-300-100", lanes)
    assert all(close(a, b, 1e-4) for a, b in zip(one, other, strict=True))


class Sometimes(nn.Module):
    """A network with a part that only some batches use, and a layer whose gradients are sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4, sparse=True)
        self.usual, self.extra = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found = self.table(tokens).mean(1)
        chosen = self.usual if int(tokens[0, 0]) % 2 else self.extra
        return torch.as_tensor(chosen(found))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_weight_that_takes_no_part_in_a_step_stays_as_it_is(optimizer: str) -> None:
    protocol = Protocol(name="", epochs=1, batch_size=6, optimizer=optimizer, weight_decay=0.1, learning_rate=0.1)  # type: ignore[arg-type]
    one = Sometimes().double()
    other = copy.deepcopy(one)
    other.table.sparse = False  # torch's own optimisers do not take sparse gradients with decay
    step = steps.Step(SingleModel(one), protocol)
    keys: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1}
    theirs: torch.optim.Optimizer = torch.optim.Adam(other.parameters(), **keys)
    if optimizer == "sgd":
        theirs = torch.optim.SGD(other.parameters(), momentum=protocol.momentum, **keys)
    for i in (0, 1, 1, 0, 0, 1):
        tokens, targets = torch.randint(0, 10, (6, 5)), torch.randint(0, 3, (6,))
        tokens[0, 0] = i
        theirs.zero_grad()
        nn.functional.cross_entropy(other(tokens), targets).backward()
        theirs.step()
        step(tokens[None], targets[None], 0.1)
        for mine, weight in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, weight, rtol=1e-12, atol=1e-12)


class Held:
    """Something with a state, that a network holds."""

    def __init__(self) -> None:
        self.n = 0


class Restless(nn.Linear):
    """A layer that changes, in every step, what it is told to."""

    seen: torch.Tensor

    def __init__(self, change: str) -> None:
        super().__init__(2, 2)
        self.register_buffer("seen", torch.zeros(2))
        self.calls, self.change = 0, change
        self.log: list[int] = []
        self.table = {"n": 0}
        self.held, self.chance = Held(), np.random.default_rng(0)
        self.own, self.generator = random.Random(0), torch.Generator().manual_seed(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change = self.change
        if change == "counts":
            self.calls += 1
        elif change == "notes":
            self.log.append(1)
        elif change == "fills":
            self.table["n"] += 1
        elif change == "holds":
            self.held.n += 1
        elif change == "replaces":
            self.seen = self.seen + x.mean()
        elif change == "draws":
            x = x * random.random()
        elif change == "drops":
            x = nn.functional.dropout(x)
        elif change == "draws by numpy":
            x = x * self.chance.random()
        elif change == "draws by its own":
            x = x * self.own.random()
        elif change == "draws by torch":
            x = x * torch.rand(1, generator=self.generator)
        else:
            self.seen += x.mean()
        return super().forward(x)


CHANGES = ["counts", "notes", "fills", "holds", "replaces", "draws", "drops"]
CHANGES += ["draws by numpy", "draws by its own", "draws by torch", "in place"]


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_graph_would_not_repeat_is_seen(change: str) -> None:
    module = nn.Sequential(Restless(change))
    before = non_tensor_state(module, attributes=True)
    assert non_tensor_state(module, attributes=True) == before
    module.eval()
    module.train()
    assert non_tensor_state(module, attributes=True) == before
    module(torch.ones(1, 2))
    assert (non_tensor_state(module, attributes=True) == before) == (change == "in place")


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("keys", [{"nesterov": True, "momentum": 0.8}, {"momentum": 0.8}, {"momentum": 0.0}])
def test_steps_of_sgd_are_those_of_torch(keys: dict[str, Any], clip: float | None) -> None:
    """In float64, with decay and another learning rate in every step, clipped or not."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    other = copy.deepcopy(one)
    protocol = Protocol(name="", epochs=1, batch_size=6, learning_rate=1.0, weight_decay=0.1, clip_norm=clip, **keys)
    step, theirs = steps.Step(SingleModel(one), protocol), torch.optim.SGD(other.parameters(), weight_decay=0.1, **keys)
    for rate in (0.1, 0.3, 0.05, 0.2):
        inputs, targets = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 3, (6,))
        theirs.zero_grad()
        loss = nn.functional.cross_entropy(other(inputs), targets)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(other.parameters(), clip)
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
        assert step(inputs[None], targets[None], rate).item() == pytest.approx(loss.item(), rel=1e-12)
        for mine, weight in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, weight, rtol=1e-12, atol=1e-14)


def test_of_what_a_network_keeps_tensors_may_be_left_out() -> None:
    """As in a stack, whose tensors are others in every call."""
    module = nn.Sequential(Restless("counts"))
    module[0].kept, module[0].list = torch.ones(1), [torch.ones(1)]  # type: ignore[assignment]
    plain, whole = non_tensor_state(module), non_tensor_state(module, attributes=True)
    module[0].kept, module[0].list = torch.zeros(1), [torch.zeros(1)]  # type: ignore[assignment]
    assert non_tensor_state(module) == plain
    assert non_tensor_state(module, attributes=True) != whole
    module(torch.ones(1, 2))
    assert non_tensor_state(module) != plain


def test_lists_of_weights_of_recurrent_layers_alone_are_left_out() -> None:
    layer, other = nn.LSTM(2, 2), nn.Linear(2, 2)
    for module, same in ((layer, True), (other, False)):
        module._flat_weights = [torch.ones(1)]
        before = non_tensor_state(module, attributes=True)
        module._flat_weights = [torch.ones(1)]
        assert (non_tensor_state(module, attributes=True) == before) == same
        module.calls = 1
        assert non_tensor_state(module, attributes=True) != before


def test_losses_of_a_compiled_step_are_compiled_anew_for_each_group(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def compile(function: Any, **options: Any) -> Any:
        made.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "reset", lambda: made.append("reset"))
    x, y = torch.ones(1, 4, 3), torch.zeros(1, 4, dtype=torch.long)
    for options in ({}, {"compile": True}):
        model = nn.Linear(3, 2, bias=False)
        assert steps.Step(SingleModel(model), PROTOCOL, **options)(x, y, 0.1).shape == (1,)
        assert made == (["reset", {"dynamic": False}] if options else [])
