"""Events between two steps: what they see, masks that are replaced, and the same weights as a loop by hand."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.pruning import Pruner
from pai_bench.training.batches import Order
from pai_bench.training.events import Event, Events, Pause
from pai_bench.training.loop import History
from pai_bench.training.trainer import Engine, Together, train, train_together
from tests.training.test_trainer import PROTOCOL, data, half_mask, model, plain_loop

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


def whole_masks(models: list[nn.Module]) -> list[pb.Mask]:
    """Masks that remove nothing."""
    return [pb.Mask.whole({name: network.get_parameter(name) for name in NAMES}) for network in models]


def by_hand(seed: int, cuts: Mapping[int, float]) -> nn.Module:
    """The network of a plain loop, cut by magnitude after so many steps."""
    masks = whole_masks([model()])

    def mask_after(step: int, network: nn.Module) -> pb.Mask:
        if step in cuts:
            masks.append(pb.Mask(largest(network, cuts[step])))
        return masks[-1]

    return plain_loop(seed, mask_after)


def cuts_of(cuts: Mapping[int, float]) -> list[Event]:
    """The same by events."""

    def action(share: float) -> Callable[[Pause], None]:
        return lambda pause: pause.replace([largest(network, share) for network in pause.models])

    return [Event(after, action(share)) for after, share in cuts.items()]


@pytest.mark.parametrize("cuts", [{0: 0.5}, {2: 0.6, 4: 0.3}, {3: 0.4}, {6: 0.2}])
def test_one_network_is_cut_as_in_a_plain_loop(cuts: dict[int, float]) -> None:
    network = model()
    train(network, data(), PROTOCOL, mask=whole_masks([network])[0], seed=3, events=cuts_of(cuts))
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
        masks=whole_masks(networks),
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

    at = [Event(2, replace), Event(2, look), Event(5, look)]
    train(network, data(), PROTOCOL, mask=mask, events=at)
    assert said == [True] * 5

    def replace_both(pause: Pause) -> None:
        pause.replace([other, other])

    said.clear()
    networks = [model(), model()]  # in a stack, whose weights are others
    orders, at[0] = [Order(0), Order(1)], Event(2, replace_both)
    train_together(networks, data(), PROTOCOL, masks=[mask, mask], orders=orders, events=at)
    assert said == [True] * 4


def test_masks_stay_where_a_recorded_step_looks_for_them() -> None:
    network, places = model(), list[list[int]]()

    def note(pause: Pause) -> None:
        places.append([mask.data_ptr() for mask in pause._program.enforcer.masks])

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
            mask=whole_masks([network])[0],
            events=[Event(2, cut(0.5)), Event(4, cut(0.25))],
        )
    assert kept == [114, 57]
    assert pruner.mask is not None
    for name, keep in pruner.mask.items():
        assert torch.equal(network.get_parameter(name) != 0, keep)


def test_events_that_do_nothing_change_nothing_and_take_no_time() -> None:
    def timed(*at: Event) -> tuple[History, nn.Module, float]:
        network, began = model(), time.perf_counter()
        history = train(network, data(), PROTOCOL, mask=half_mask(network), seed=1, events=at)
        return history, network, time.perf_counter() - began

    plain, one, _ = timed()
    with_events, other, seconds = timed(*(Event(step, lambda _: time.sleep(0.2)) for step in (0, 2, 6)))
    assert plain.epochs == with_events.epochs
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert with_events.seconds < seconds - 0.6


def test_what_is_refused() -> None:
    with pytest.raises(pb.UserError, match="an event after -1 steps is before training begins"):
        Event(-1, lambda _: None)
    with pytest.raises(pb.UserError, match="an event after 7 steps never comes: training has 6"):
        train(model(), data(), PROTOCOL, events=[Event(7, lambda _: None)])
    network = model()
    late = Event(1, lambda pause: pause.replace([half_mask(network)]))
    with pytest.raises(ValueError, match=r"no mask covered '0\.weight' when training began"):
        train(network, data(), PROTOCOL, events=[late])
    for masks, message in (
        ([], "0 masks for 1 networks"),
        ([{"4.weight": torch.ones(3, 3) > 0}], r"a mask of '4\.weight' has shape \(3, 3\), not \(3, 64\)"),
    ):
        wrong = Event(1, lambda pause, masks=masks: pause.replace(masks))  # type: ignore[misc]
        with pytest.raises(ValueError, match=message):
            train(network, data(), PROTOCOL, mask=half_mask(network), events=[wrong])
    with pytest.raises(pb.UserError, match=r"an event is after a whole number of steps, not 1\.5"):
        Event(1.5, lambda _: None)  # type: ignore[arg-type]
    assert not Events([], 3)


@pytest.mark.parametrize("together", ["alone", "stacked", "branches"])
def test_training_goes_on_in_its_mode_after_an_event(together: str) -> None:
    """Whatever the mode is in which a network is measured."""

    def measure(pause: Pause) -> None:
        for network in pause.models:
            network.train(pause.step == 0)

    at = [[], [Event(step, measure) for step in (0, 2)]]
    found = []
    for some in at:
        networks = [model() for _ in range(1 if together == "alone" else 2)]
        options: dict[str, Any] = {} if together == "alone" else {"engine": Engine(together)}  # type: ignore[arg-type]
        orders = [Order(seed) for seed in range(len(networks))]
        masks = [None] * len(networks)
        train_together(networks, data(), PROTOCOL, masks=masks, orders=orders, events=some, **options)
        found.append([tensor for network in networks for tensor in network.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
