"""The fastest of the ways to train trials together, by made-up measurements of a device that is not there."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pai_bench.execution.search import Search
from pai_bench.training.trainer import Engine

Table = dict[tuple[int, str, bool], float]
"""Networks, way and channels-last -> seconds for a step of one of them."""

ALONE = {(1, "stacked", True): 1.0, (1, "stacked", False): 2.0}


def search(
    table: Table,
    *,
    device: str = "cuda",
    together: str = "auto",
    count: int = 16,
    room: int = 10**9,
    refused: tuple[str, ...] = (),
    compile: bool = False,
    model: nn.Module | None = None,
) -> tuple[Search, list[tuple[int, str, bool]]]:
    """A search, and what it measures."""
    measured: list[tuple[int, str, bool]] = []

    def measure(networks: int, engine: Engine) -> tuple[float, int]:
        measured.append((networks, engine.together, engine.channels_last))
        if (found := table.get(measured[-1], 9.0)) < 0:
            raise torch.OutOfMemoryError
        return found, 100 * networks

    runner: Any = SimpleNamespace(
        device=torch.device(device),
        catalog=SimpleNamespace(sweep=SimpleNamespace(together=together, compile=compile)),
        inputs=SimpleNamespace(model=lambda _trial: model or nn.Sequential(nn.Conv2d(1, 1, 1))),
        obstacle=lambda _trial, way: "it cannot" if way in refused else None,
    )
    trial: Any = SimpleNamespace(model="net")
    return Search(runner, trial, count, room, measure), measured


def test_stacked_and_branches_are_both_doubled_and_the_faster_is_taken() -> None:
    table = ALONE | {(2, "stacked", True): 0.9, (2, "branches", True): 0.6, (4, "branches", True): 0.4}
    table |= {(4, "stacked", True): 0.8, (8, "stacked", True): 0.5}
    found, measured = search(table)
    assert found.best("auto") == (4, Engine(together="branches"), 0.4)
    assert measured[:2] == [(1, "stacked", True), (1, "stacked", False)]
    assert (16, "stacked", True) in measured
    found, _ = search(table | {(16, "stacked", True): 0.2})
    assert found.best("auto") == (16, Engine(), 0.2)


def test_one_network_by_itself_if_nothing_is_faster() -> None:
    assert search(dict(ALONE))[0].best("auto") == (1, Engine(), 1.0)


def test_the_layout_is_measured_where_there_are_convolutions_on_a_device() -> None:
    table = {(1, "stacked", True): 1.0, (1, "stacked", False): 0.8, (2, "branches", False): 0.5}
    assert search(table)[0].best("auto") == (2, Engine(together="branches", channels_last=False), 0.5)
    near, _ = search({(1, "stacked", True): 1.0, (1, "stacked", False): 0.97})
    assert near.best("auto")[1].channels_last  # as good as the same: the results would have other bits for nothing
    options: dict[str, Any]
    for options in ({"device": "cpu"}, {"model": nn.Linear(1, 1)}):
        found, measured = search(table, **options)
        assert found.best("auto")[1].channels_last
        assert not any(not channels_last for _, _, channels_last in measured)


def test_ways_that_a_network_or_a_sweep_refuses_are_not_measured() -> None:
    table = ALONE | {(2, "stacked", True): 0.1, (2, "branches", True): 0.2}
    options: dict[str, Any]
    for options in ({"refused": ("stacked",)}, {"together": "branches"}):
        found, measured = search(table, **options)
        assert found.best("auto") == (2, Engine(together="branches"), 0.2)
        assert (2, "stacked", True) not in measured
    for options in ({"refused": ("branches",)}, {"together": "stacked"}, {"device": "cpu"}, {"compile": True}):
        found, measured = search(table, **options)
        assert found.best(2)[:2] == (2, Engine(compile="compile" in options))
        assert (2, "branches", True) not in measured


def test_a_number_that_is_asked_for_is_trained_in_the_faster_way() -> None:
    table = ALONE | {(8, "stacked", True): 0.5, (8, "branches", True): 0.3}
    assert search(table)[0].best(8) == (8, Engine(together="branches"), 0.3)
    short, _ = search(table | {(8, "branches", True): -1})
    assert short.best(8) == (8, Engine(), 0.5)
    neither, _ = search(ALONE | {(8, "stacked", True): -1, (8, "branches", True): -1})
    assert neither.best(8) == (8, Engine(), 1.0)  # they will be split


def test_the_layout_of_a_number_is_measured_too() -> None:
    table = {(1, "stacked", True): 1.0, (1, "stacked", False): 0.5, (8, "stacked", False): 0.3}
    assert search(table)[0].best(8) == (8, Engine(channels_last=False), 0.3)
    assert search(table)[0].best(1) == (1, Engine(channels_last=False), 0.5)


def test_a_number_that_cannot_be_trained_together_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    found, _ = search(dict(ALONE), refused=("stacked", "branches"))
    assert found.best(8) == (1, Engine(), 1.0)
    assert caplog.messages[0] == "net is trained one at a time: it cannot"


@pytest.mark.parametrize(("room", "networks"), [(1000, 4), (1001, 8)])
def test_doubling_ends_where_memory_does(room: int, networks: int) -> None:
    """Twice as many may need two and a half times the memory: of four networks, 2.5 x 400 bytes."""
    table: Table = {(2**i, way, True): 1 / 2**i for i in range(5) for way in ("stacked", "branches")}
    assert search(table, room=room)[0].best("auto")[0] == networks


def test_another_way_must_be_more_than_a_twentieth_faster() -> None:
    """What is as good leaves the results as they were; doubling goes on, since the next step may be faster."""
    table: Table = {(1, "stacked", True): 1.05, (1, "stacked", False): 1.0, (2, "stacked", True): 1.0}
    assert search(table)[0].best("auto") == (1, Engine(), 1.05)
    assert search(table | {(4, "stacked", True): 0.5})[0].best("auto") == (4, Engine(), 0.5)


@pytest.mark.parametrize(("seconds", "networks"), [(0.02, 1), (0.019, 2)])
def test_small_steps_alone_are_taken_together_on_a_processor(seconds: float, networks: int) -> None:
    table: Table = {(1, "stacked", True): seconds, (2, "stacked", True): 0.001}
    assert search(table, device="cpu")[0].best("auto")[0] == networks
    assert search({**table, (1, "stacked", False): 9.0})[0].best("auto")[0] == 2


def test_what_cannot_be_measured_is_trained_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    broken: Table = {(1, "stacked", True): -1.0}
    lanes: int | str
    for lanes in ("auto", 1, 3):
        assert search(dict(broken), refused=("stacked", "branches"))[0].best(lanes) == (1, Engine(), 0.0)
    assert [message.partition(":")[0] for message in caplog.messages].count("a step of net cannot be measured") == 3


def test_one_at_a_time_is_no_number_that_could_be_refused(caplog: pytest.LogCaptureFixture) -> None:
    assert search(dict(ALONE), refused=("stacked", "branches"))[0].best(1) == (1, Engine(), 1.0)
    assert search(dict(ALONE), together="branches")[0].best(1) == (1, Engine(), 1.0)
    assert not caplog.messages
