"""Events and the optimiser: what it keeps of removed and returning weights, events that need or replace its step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.groups import GroupMask, shrink
from pai_bench.training.batches import Order
from pai_bench.training.events import Event, Pause
from pai_bench.training.trainer import Engine, Together, train, train_together
from tests.training.test_trainer import PROTOCOL, data, half_mask, model

NAMES = ("0.weight", "4.weight")
Gradients = Mapping[str, Tensor]


class Plain:
    """SGD with momentum and decay by hand, in float32, with events before, after and in place of steps."""

    def __init__(self, seed: int, mask: pb.Mask) -> None:
        self.network, self.mask, self.step = model(), dict(mask), 0
        self.order = torch.Generator().manual_seed(seed)
        self.velocity = {name: torch.zeros_like(p) for name, p in self.network.named_parameters()}
        self.after: dict[int, Callable[[Gradients], None]] = {}
        self.instead: dict[int, Callable[[Gradients], None]] = {}
        mask.apply_(self.network)

    def run(self) -> nn.Module:
        """Two epochs of three steps."""
        images, targets = data().normalised(data().train.inputs), data().train.targets
        for _ in range(2):
            self.network.train()
            for chosen in torch.randperm(37, generator=self.order)[:30].split(10):
                loss = F.cross_entropy(self.network(images[chosen]), targets[chosen])
                gradients = torch.autograd.grad(loss, list(self.network.parameters()))
                named = dict(zip(dict(self.network.named_parameters()), gradients, strict=True))
                if self.step in self.instead:
                    self.instead[self.step](named)
                else:
                    self._take(named)
                self.step += 1
                if self.step in self.after:
                    self.after[self.step](named)
        return self.network

    @torch.no_grad()
    def _take(self, gradients: Gradients) -> None:
        for name, p in self.network.named_parameters():
            self.velocity[name] = 0.9 * self.velocity[name] + gradients[name] + 0.01 * p
            p.sub_((0.1 if self.step < 3 else 0.01) * self.velocity[name])
        pb.Mask(self.mask).apply_(self.network)

    @torch.no_grad()
    def replace(self, mask: Mapping[str, Tensor], values: Mapping[str, Tensor] | None = None) -> None:
        """Other weights: those that were there keep value and momentum, all others begin at zero or their value."""
        for name, keep in mask.items():
            weight, before = self.network.get_parameter(name), self.mask[name]
            weight.mul_(before & keep)
            if values:
                weight.add_(values[name] * (keep & ~before))
            self.velocity[name] = self.velocity[name] * (before & keep)
        self.mask = dict(mask)


def dense_gradients_mask(gradients: Gradients, mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A mask that depends on the gradients at removed weights: half of them return, a tenth of all others go."""
    new = {}
    for name in NAMES:
        removed = gradients[name].abs() * ~mask[name]
        grown = removed >= removed[~mask[name]].median()
        dropped = (gradients[name].abs() * mask[name]) > 0.95 * gradients[name].abs().max()
        new[name] = (mask[name] & ~dropped) | grown & ~mask[name]
    return new


def same(network: nn.Module, expected: nn.Module) -> None:
    for name, p in expected.named_parameters():
        torch.testing.assert_close(network.get_parameter(name), p, atol=1e-6, rtol=1e-5)
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(network.get_buffer(name), buffer, atol=1e-6, rtol=1e-5)


def trained(together: Together | None, events: list[Event]) -> list[nn.Module]:
    """One network, or two together, from the same half."""
    networks = [model() for _ in range(1 if together is None else 2)]
    masks, orders = [half_mask(network) for network in networks], [Order(seed) for seed in range(len(networks))]
    engine = Engine() if together is None else Engine(together)
    train_together(networks, data(), PROTOCOL, masks=masks, orders=orders, events=events, engine=engine)
    return networks


WAYS = pytest.mark.parametrize("together", [None, "stacked", "branches"])


@WAYS
def test_returning_weights_begin_at_zero_without_momentum(together: Together | None) -> None:
    other = half_mask(model(), seed=2)
    mask = half_mask(model())
    assert all(bool((other[name] & ~mask[name]).any()) for name in NAMES)
    events = [Event(2, lambda pause: pause.replace([other] * len(pause.models)))]
    for seed, network in enumerate(trained(together, events)):
        plain = Plain(seed, mask)
        plain.after[2] = lambda _gradients, plain=plain: plain.replace(other)  # type: ignore[misc]
        same(network, plain.run())


@WAYS
def test_returning_weights_take_given_values(together: Together | None) -> None:
    other = half_mask(model(), seed=2)
    values = {name: torch.full_like(model().get_parameter(name), 0.25) for name in NAMES}
    events = [Event(2, lambda pause: pause.replace([other] * len(pause.models), weights=[values] * len(pause.models)))]
    for seed, network in enumerate(trained(together, events)):
        plain = Plain(seed, half_mask(model()))
        plain.after[2] = lambda _gradients, plain=plain: plain.replace(other, values)  # type: ignore[misc]
        same(network, plain.run())


@WAYS
@pytest.mark.parametrize("replaces", [True, False])
def test_masks_by_the_dense_gradients_of_a_step(together: Together | None, *, replaces: bool) -> None:
    def act(pause: Pause) -> None:
        assert (pause.step, len(pause.gradients)) == (2, len(pause.models))
        pairs = zip(pause.gradients, pause.masks, strict=True)
        pause.replace([dense_gradients_mask(gradients, mask or {}) for gradients, mask in pairs])

    for seed, network in enumerate(trained(together, [Event(2, act, gradients=True, replaces_step=replaces)])):
        plain = Plain(seed, half_mask(model()))

        def by_hand(gradients: Gradients, plain: Plain = plain) -> None:
            plain.replace(dense_gradients_mask(gradients, plain.mask))

        (plain.instead if replaces else plain.after)[2] = by_hand
        same(network, plain.run())


def test_the_optimiser_begins_anew_where_asked() -> None:
    mask = half_mask(model())
    network = model()
    events = [Event(3, lambda pause: pause.replace([mask], reset=True))]
    train(network, data(), PROTOCOL, mask=mask, events=events)
    plain = Plain(0, mask)

    def reset(_gradients: Gradients) -> None:
        plain.velocity = {name: torch.zeros_like(velocity) for name, velocity in plain.velocity.items()}

    plain.after[3] = reset
    same(network, plain.run())


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


OPTIMISERS: dict[str, dict[str, Any]] = {"momentum": {}, "adam": {"optimizer": "adam", "learning_rate": 0.01}}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("reset", [False, True])
def test_a_network_that_becomes_smaller_is_trained_like_one_under_its_mask(optimiser: str, *, reset: bool) -> None:
    """The optimiser's state is sliced as the weights are."""
    protocol, images, network = dataclasses.replace(PROTOCOL, **OPTIMISERS[optimiser]), data(), mlp()
    mask = pb.prune(network, (images.normalised(images.train.inputs), images.train.targets), "snap", 0.5)
    assert isinstance(mask, GroupMask)
    whole = pb.Mask({name: torch.ones_like(keep) for name, keep in mask.items()})
    made: list[nn.Module] = []

    def act(pause: Pause) -> None:
        def smaller(model: nn.Module) -> nn.Module:
            return shrink(model, mask)

        pause.shrink(smaller, None, reset=reset)
        assert pause.successor is not None
        made.append(pause.successor.model)

    train(network, images, protocol, events=[Event(2, act)])
    masked = mlp()
    train(masked, images, protocol, mask=whole, events=[Event(2, lambda pause: pause.replace([mask], reset=reset))])
    assert made[0].get_parameter("1.weight").shape[0] < 12
    same(made[0], shrink(masked, mask))


def test_events_that_do_not_fit_are_refused() -> None:
    network, mask = model(), half_mask(model())
    with pytest.raises(pb.UserError, match="an event after 6 steps never comes: training has 6"):
        train(network, data(), PROTOCOL, mask=mask, events=[Event(6, print, replaces_step=True)])
    with pytest.raises(pb.UserError, match="an event before the first step has no gradients of a step"):
        Event(0, print, gradients=True)

    def shrink_twice(pause: Pause) -> None:
        for _ in range(2):
            pause.shrink(lambda model: model, None, reset=True)

    with pytest.raises(ValueError, match="a network is made smaller once after a step"):
        train(network, data(), PROTOCOL, events=[Event(1, shrink_twice)])
    with pytest.raises(ValueError, match="trained together are not made smaller"):
        trained("stacked", [Event(1, shrink_twice)])
