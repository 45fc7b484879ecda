"""Events between two steps: what they see, masks that are replaced, and the same weights as a loop by hand."""

import copy
import time
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.pruning import Pruner
from pai_bench.training import events
from pai_bench.training.batches import Order
from pai_bench.training.events import Event, Pause, whole_masks
from pai_bench.training.trainer import Engine, History, Together, train, train_together
from tests.training.test_trainer import PROTOCOL, data, half_mask, model

NAMES = ("0.weight", "4.weight")
STEPS = 6  # of the protocol, in two epochs


def largest(network: nn.Module, share: float) -> dict[str, Tensor]:
    """By hand: the share of the weights with the largest magnitudes, over both layers."""
    flat = torch.cat([network.get_parameter(name).detach().abs().flatten() for name in NAMES])
    kept = torch.zeros_like(flat, dtype=torch.bool)
    kept[flat.argsort(descending=True)[: round(share * len(flat))]] = True
    sizes = [network.get_parameter(name).numel() for name in NAMES]
    parts = zip(NAMES, kept.split(sizes), strict=True)
    return {name: part.view_as(network.get_parameter(name)) for name, part in parts}


def by_hand(seed: int, cuts: Mapping[int, float]) -> nn.Module:
    """The network of a plain loop of SGD, cut by magnitude after so many steps."""
    plain = model()
    images, targets = data().normalised(data().train.inputs), data().train.targets
    velocity = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    order, step, mask = torch.Generator().manual_seed(seed), 0, None

    def cut() -> dict[str, Tensor] | None:
        found = largest(plain, cuts[step]) if step in cuts else mask
        if found is not None:
            pb.Mask(found).apply_(plain)
        return found

    mask = cut()
    for _ in range(2):
        for chosen in torch.randperm(37, generator=order)[:30].split(10):
            loss = F.cross_entropy(plain.train()(images[chosen]), targets[chosen])
            gradients = torch.autograd.grad(loss, list(plain.parameters()))
            rate = 0.1 if step < 3 else 0.01
            with torch.no_grad():
                for (name, p), g in zip(plain.named_parameters(), gradients, strict=True):
                    velocity[name] = 0.9 * velocity[name] + g + 0.01 * p
                    p.sub_(rate * velocity[name])
                if mask is not None:
                    pb.Mask(mask).apply_(plain)
            step += 1
            mask = cut()
    return plain


def cuts_of(cuts: Mapping[int, float]) -> list[Event]:
    """The same by events."""

    def action(share: float) -> Callable[[Pause], None]:
        return lambda pause: pause.replace([largest(network, share) for network in pause.models])

    return [Event(after, action(share)) for after, share in cuts.items()]


@pytest.mark.parametrize("cuts", [{0: 0.5}, {2: 0.6, 4: 0.3}, {3: 0.4}, {6: 0.2}])
def test_one_network_is_cut_as_in_a_plain_loop(cuts: dict[int, float]) -> None:
    network = model()
    train(network, data(), PROTOCOL, mask=whole_masks([network], NAMES)[0], seed=3, events=cuts_of(cuts))
    expected = by_hand(3, cuts)
    for name, p in expected.named_parameters():
        torch.testing.assert_close(p, network.get_parameter(name), atol=1e-6, rtol=1e-5)
    last = list(cuts.values())[-1]
    assert sum(int(network.get_parameter(name).count_nonzero()) for name in NAMES) == round(last * 228)


@pytest.mark.parametrize("together", ["stacked", "branches"])
def test_networks_that_are_trained_together_are_cut_each_for_itself(together: Together) -> None:
    networks, cuts = [model() for _ in range(3)], {1: 0.7, 4: 0.3}
    train_together(
        networks,
        data(),
        PROTOCOL,
        masks=whole_masks(networks, NAMES),
        orders=[Order(seed) for seed in range(3)],
        engine=Engine(together),
        events=cuts_of(cuts),
    )
    for seed, network in enumerate(networks):
        for name, p in by_hand(seed, cuts).named_parameters():
            torch.testing.assert_close(p, network.get_parameter(name), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("together", ["stacked", "branches"])
def test_an_event_sees_the_networks_as_they_are(together: Together) -> None:
    seen: list[tuple[int, int, list[Tensor]]] = []

    def look(pause: Pause) -> None:
        weights = [network.get_parameter("4.weight").detach().clone() for network in pause.models]
        seen.append((pause.step, pause.steps, weights))

    for number in (1, 2):
        networks = [model() for _ in range(number)]
        masks, orders = [half_mask(network) for network in networks], [Order(seed) for seed in range(number)]
        at = [Event(step, look) for step in (0, 3, STEPS)]
        seen.clear()
        train_together(networks, data(), PROTOCOL, masks=masks, orders=orders, engine=Engine(together), events=at)
        assert [(step, steps) for step, steps, _ in seen] == [(0, STEPS), (3, STEPS), (STEPS, STEPS)]
        begun = half_mask(model()).apply_(model()).get_parameter("4.weight")
        for lane, network in enumerate(networks):
            first, middle, last = (weights[lane] for _, _, weights in seen)
            assert torch.equal(first, begun)
            assert not torch.equal(first, middle)
            assert torch.equal(last, network.get_parameter("4.weight"))


def test_events_of_a_step_are_done_in_their_order_and_know_the_masks() -> None:
    network, said = model(), list[object]()
    mask, other = half_mask(network), half_mask(network, seed=2)

    def replace(pause: Pause) -> None:
        said.append(pause.masks[0] is mask)
        pause.replace([other])

    def look(pause: Pause) -> None:
        said.append(pause.masks[0] is other)
        said.append(not pause.models[0].get_parameter("0.weight")[~other["0.weight"]].any())

    train(network, data(), PROTOCOL, mask=mask, events=[Event(2, replace), Event(2, look), Event(5, look)])
    assert said == [True] * 5


def test_masks_stay_where_a_recorded_step_looks_for_them() -> None:
    network, places = model(), list[list[int]]()

    def note(pause: Pause) -> None:
        places.append([mask.data_ptr() for mask in pause._program.enforcer._masks])

    def replace(pause: Pause) -> None:
        pause.replace([half_mask(network, seed=2)])

    train(
        network, data(), PROTOCOL, mask=half_mask(network), events=[Event(1, note), Event(2, replace), Event(3, note)]
    )
    assert places[0] == places[1]


def test_a_pruner_cuts_a_network_while_it_is_trained() -> None:
    network, batch = model(), pb.Batch(data().normalised(data().train.inputs), data().train.targets)
    kept: list[int] = []
    with Pruner(network, pb.get_criterion("snip")) as pruner:

        def cut(density: float) -> Callable[[Pause], None]:
            def action(pause: Pause) -> None:
                pruner.renew()
                pause.replace([pruner.cut(batch, density)])
                kept.append(sum(int(network.get_parameter(name).count_nonzero()) for name in NAMES))

            return action

        train(
            network,
            data(),
            PROTOCOL,
            mask=whole_masks([network], NAMES)[0],
            events=[Event(2, cut(0.5)), Event(4, cut(0.25))],
        )
    assert kept == [114, 57]
    assert pruner.mask is not None
    for name, keep in pruner.mask.items():
        assert torch.equal(network.get_parameter(name) != 0, keep)


def test_events_that_do_nothing_change_nothing_and_take_no_time() -> None:
    def timed(*at: Event) -> tuple[History, nn.Module]:
        network = model()
        return train(network, data(), PROTOCOL, mask=half_mask(network), seed=1, events=at), network

    (plain, one), (with_events, other) = timed(), timed(*(Event(step, lambda _: time.sleep(0.2)) for step in (0, 2, 6)))
    assert plain.epochs == with_events.epochs
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert with_events.seconds < 0.2


def test_what_is_refused() -> None:
    with pytest.raises(pb.UserError, match="an event after -1 steps is before training begins"):
        Event(-1, lambda _: None)
    with pytest.raises(pb.UserError, match="an event after 7 steps never comes: training has 6"):
        train(model(), data(), PROTOCOL, events=[Event(7, lambda _: None)])
    network = model()
    late = Event(1, lambda pause: pause.replace([half_mask(network)]))
    with pytest.raises(ValueError, match=r"no mask covered '0\.weight' when training began"):
        train(network, data(), PROTOCOL, events=[late])
    assert events.by_step([], 3) == {}


def test_whole_masks_cover_and_keep_everything() -> None:
    network = model()
    (mask,) = whole_masks([network], NAMES)
    assert {name: kept.shape for name, kept in mask.items()} == {n: network.get_parameter(n).shape for n in NAMES}
    assert all(bool(kept.all()) and kept.dtype is torch.bool for kept in mask.values())
    before = copy.deepcopy(network)
    trained, plain = model(), model()
    train(trained, data(), PROTOCOL, mask=mask)
    train(plain, data(), PROTOCOL)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), plain.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), network.parameters(), strict=True))


@pytest.mark.parametrize("together", ["stacked", "branches"])
def test_a_network_that_began_without_a_mask_is_cut_beside_one_that_had_one(together: Together) -> None:
    networks = [model(), model()]
    nothing = {name: torch.zeros_like(kept) for name, kept in whole_masks(networks[:1], NAMES)[0].items()}
    train_together(
        networks,
        data(),
        PROTOCOL,
        masks=[whole_masks(networks, NAMES)[0], None],
        orders=[Order(0), Order(1)],
        engine=Engine(together),
        events=[Event(2, lambda pause: pause.replace([nothing, nothing]))],
    )
    assert not any(network.get_parameter(name).any() for network in networks for name in NAMES)


def test_a_look_in_evaluation_mode_changes_nothing() -> None:
    one, other = model(), model()
    plain = train(one, data(), PROTOCOL, seed=1)

    def look(pause: Pause) -> None:
        pause.models[0].eval()

    looked = train(other, data(), PROTOCOL, seed=1, events=[Event(1, look)])
    assert plain.epochs == looked.epochs


def test_masks_that_do_not_fit_are_refused() -> None:
    network = model()
    wrong: list[tuple[Callable[[Pause], None], str]] = [
        (lambda pause: pause.replace([]), "0 masks for 1 networks"),
        (lambda pause: pause.replace([{"0.weight": torch.tensor([True])}]), r"has shape \(1,\), not \(4, 1, 3, 3\)"),
    ]
    for action, message in wrong:
        with pytest.raises(ValueError, match=message):
            train(network, data(), PROTOCOL, mask=whole_masks([network], NAMES)[0], events=[Event(1, action)])
    with pytest.raises(pb.UserError, match=r"a whole number of steps, not 1\.5"):
        Event(1.5, lambda _: None)  # type: ignore[arg-type]
