"""Networks side by side in one program: to the bit what each would be alone, on a processor."""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.training import trainable_groups
from pai_bench.training.batches import Order
from pai_bench.training.equivalence import draws_at_random
from pai_bench.training.protocol import Protocol
from pai_bench.training.trainable_groups import Branches, StackedModels, TrainableGroup
from pai_bench.training.trainer import Engine, train, train_together

PROTOCOL = Protocol(name="test", epochs=2, batch_size=8, learning_rate=0.05, weight_decay=0.01)
BRANCHES = Engine(together="branches")
COUNT = 3


def images(shape: tuple[int, ...] = (3, 8, 8), size: int = 37) -> pb.DataSet:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (size, *shape), generator=generator, dtype=torch.uint8)
    split = Split(inputs, torch.randint(0, 3, (size,), generator=generator))
    return pb.DataSet("noise", split, Split(*(part[:11] for part in split)), num_classes=3)


def networks(name: str = "resnet-20") -> list[nn.Module]:
    return [pb.create_model(name, input_shape=(3, 8, 8), num_classes=3, seed=i) for i in range(COUNT)]


def masks_of(models: list[nn.Module]) -> list[dict[str, Tensor] | None]:
    generator = torch.Generator().manual_seed(2)
    weights = [{n: p for n, p in model.named_parameters() if p.dim() > 1} for model in models[1:]]
    return [None, *({n: torch.rand(p.shape, generator=generator) > 0.4 for n, p in one.items()} for one in weights)]


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam", "learning_rate": 0.01}, {"nesterov": True}])
@pytest.mark.parametrize("name", ["lenet-300-100", "resnet-20"])
def test_a_branch_is_its_network_alone_bit_for_bit(name: str, changes: dict[str, Any]) -> None:
    protocol, data = dataclasses.replace(PROTOCOL, **changes), images()
    alone, together = networks(name), networks(name)
    masks = masks_of(alone)
    apart = [train(m, data, protocol, mask=masks[i], seed=i) for i, m in enumerate(alone)]
    orders = [Order(i) for i in range(COUNT)]
    joint = train_together(together, data, protocol, masks=masks, orders=orders, engine=BRANCHES)
    for one, other in zip(alone, together, strict=True):
        for (key, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
            assert torch.equal(a, b), key
    # the means over the test set are taken over other batches
    for first, second in zip(apart, joint, strict=True):
        assert [e.train_loss for e in first.epochs] == [e.train_loss for e in second.epochs]
        assert [e.test_accuracy for e in first.epochs] == [e.test_accuracy for e in second.epochs]
        assert [e.test_loss for e in first.epochs] == pytest.approx([e.test_loss for e in second.epochs], rel=1e-6)


@pytest.mark.parametrize("kind", [Branches, StackedModels])
def test_each_network_of_several_has_its_masks(kind: type[TrainableGroup]) -> None:
    models = networks("lenet-300-100")
    first, *others = masks_of(models)
    whole, *found = kind(models, [first, *others]).masks()  # type: ignore[call-arg]
    assert all(bool(keep.all()) for keep in whole.values())
    for mask, expected in zip([whole, *found], [whole, *others], strict=True):
        assert mask.keys() == expected.keys()  # type: ignore[union-attr]
        assert all(torch.equal(keep, expected[name]) for name, keep in mask.items())  # type: ignore[index]


def test_a_diverging_branch_does_no_harm() -> None:
    models, alone = networks("lenet-300-100"), networks("lenet-300-100")
    with torch.no_grad():
        next(models[1].parameters()).mul_(1e30)
    orders = [Order(i) for i in range(COUNT)]
    histories = train_together(models, images(), PROTOCOL, masks=[None] * COUNT, orders=orders, engine=BRANCHES)
    assert [history.diverged is None for history in histories] == [True, False, True]
    train(alone[2], images(), PROTOCOL, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(alone[2].parameters(), models[2].parameters(), strict=True))


class Tied(nn.Module):
    """Two layers of one weight, with a clipped gradient, and a count that is kept in Python: no stack takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.two.weight, self.calls = self.one.weight, 0
        self.head.weight.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))

    def forward(self, x: Tensor) -> Any:
        self.calls += self.training
        return self.head(self.two(self.one(x.flatten(1)).relu()).relu())


def test_networks_that_cannot_be_stacked_can_be_branches() -> None:
    data, (alone, together) = images((1, 2, 3)), ([Tied() for _ in range(2)] for _ in range(2))
    for one, other in zip(alone, together, strict=True):
        other.load_state_dict(one.state_dict())
    for i, model in enumerate(alone):
        train(model, data, PROTOCOL, seed=i)
    orders = [Order(0), Order(1)]
    train_together(together, data, PROTOCOL, masks=[None] * 2, orders=orders, engine=BRANCHES)
    for one, other in zip(alone, together, strict=True):
        assert one.calls == other.calls == 8
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


class Dropping(nn.Module):
    """Draws by a function, so that none of its modules says so."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(nn.functional.dropout(x, training=self.training))


def test_networks_that_draw_at_random_cannot_be_branches() -> None:
    x, targets = torch.randn(8, 6), torch.arange(8) % 3
    assert draws_at_random([nn.Linear(6, 3) for _ in range(2)], x, targets) is None
    assert draws_at_random([Dropping() for _ in range(2)], x, targets) == "it draws at random in training"
    with pytest.raises(pb.UserError, match="'1' draws at random"):
        draws_at_random([nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)) for _ in range(2)], x, targets)


def test_evaluation_of_each_branch_by_its_own_scale() -> None:
    models = [nn.Linear(6, 3) for _ in range(2)]
    x = torch.randn(2, 5, 6)
    program = Branches(models, [None] * 2)
    with torch.no_grad():
        assert torch.equal(program.logits(x, by_lane=True), torch.stack([m(y) for m, y in zip(models, x, strict=True)]))
        assert torch.equal(program.logits(x[0]), torch.stack([m(x[0]) for m in models]))


def test_branches_that_would_train_each_other_are_refused() -> None:
    one, other = Tied(), Tied()
    other.head = one.head
    with pytest.raises(ValueError, match="branches share a parameter"):
        Branches([one, other], [None] * 2)


def test_branches_are_not_compiled() -> None:
    with pytest.raises(pb.UserError, match="branches cannot be compiled"):
        Engine(together="branches", compile=True)
    with pytest.raises(pb.UserError, match="together branches cannot be compiled"):
        pb.Sweep(together="branches", compile=True)
    with pytest.raises(pb.UserError, match="unknown way of training together 'branch': did you mean branches"):
        Engine(together="branch")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lenet-300-100", "resnet-20"])
def test_branches_on_a_gpu_are_their_networks_alone(name: str) -> None:
    data, together, alone = images().to("cuda"), [m.cuda() for m in networks(name)], [m.cuda() for m in networks(name)]
    masks = [None if m is None else {n: k.cuda() for n, k in m.items()} for m in masks_of(networks(name))]
    protocol = dataclasses.replace(PROTOCOL, epochs=5)
    orders = [Order(i) for i in range(COUNT)]
    train_together(together, data, protocol, masks=masks, orders=orders, engine=BRANCHES)
    for i, model in enumerate(alone):
        train(model, data, protocol, mask=masks[i], seed=i)
    for one, other in zip(alone, together, strict=True):
        for (key, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
            assert torch.equal(a, b), key


@pytest.mark.parametrize("together", ["stacked", "branches"])
@pytest.mark.parametrize("clip", [None, 0.02])
def test_a_frozen_layer_stays_as_it_is_in_all_networks(together: Any, clip: float | None) -> None:
    data, protocol = images((1, 2, 3)), dataclasses.replace(PROTOCOL, clip_norm=clip)
    torch.manual_seed(0)
    alone = [nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)) for _ in range(COUNT)]
    for model in alone:
        model[1].requires_grad_(False)
    before, mates = copy.deepcopy(alone), copy.deepcopy(alone)
    for i, model in enumerate(alone):
        train(model, data, protocol, seed=i)
    orders = [Order(i) for i in range(COUNT)]
    train_together(mates, data, protocol, masks=[None] * COUNT, orders=orders, engine=Engine(together=together))
    for one, other, old in zip(alone, mates, before, strict=True):
        for (key, a), b, c in zip(one.named_parameters(), other.parameters(), old.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=key)
            assert torch.equal(b, c) == key.startswith("1.")


def test_branches_on_a_device_wait_for_what_was_before_and_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a stream of its own; with streams that are made up."""
    log: list[tuple[str, str]] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            log.append((self.name, other.name))

    @contextmanager
    def within(stream: Stream) -> Iterator[None]:
        log.append(("in", stream.name))
        yield

    models = [nn.Linear(6, 3) for _ in range(2)]
    x, y = torch.randn(2, 4, 6), torch.zeros(2, 4, dtype=torch.long)
    expected = Branches(copy.deepcopy(models), [None] * 2).losses(x, y)
    current = Stream("current")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: current)
    monkeypatch.setattr(torch.cuda, "stream", within)
    program = Branches(models, [None] * 2)
    program._streams = [Stream("0"), Stream("1")]  # type: ignore[list-item]
    assert torch.equal(program.losses(x, y), expected)
    before = [(kind, str(i)) if kind == "in" else (str(i), kind) for i in range(2) for kind in ("current", "in")]
    assert log == [*before, ("current", "0"), ("current", "1")]


def test_streams_are_shared_where_there_are_more_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch's 32 for a device, one is for recordings."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: object())
    device = torch.device("cuda", 7)
    found = trainable_groups.branch_streams(device, 40)
    trainable_groups._streams.cache_clear()
    assert len(found) == 40
    assert len(set(found)) == 31
    assert found[31:] == found[:9]
