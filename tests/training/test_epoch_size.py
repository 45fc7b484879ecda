"""Epochs that go through a small training set again and again, with as many steps as those of a larger one."""

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.support.errors import UserError
from pai_bench.training.batches import Batches, Order
from pai_bench.training.protocol import Protocol, get_protocol
from pai_bench.training.trainer import train, train_together

PROTOCOL = get_protocol("short", epochs=2, batch_size=4)


def ten() -> pb.DataSet:
    """The feature of an example is its place."""
    split = Split(torch.arange(10.0)[:, None], torch.arange(10) % 2)
    return pb.DataSet("ten", split, split)


def seen(epoch_size: int | None, skipped: int = 0, epochs: int = 1) -> list[list[int]]:
    """The places in each batch."""
    batches = Batches(ten(), [Order(5)], PROTOCOL, epoch_size=epoch_size)
    skipped = batches.skip(skipped)
    found = [list(batches.epoch(0 if i else skipped)) for i in range(epochs)]
    return [[int(x) for x in inputs.flatten()] for part in found for inputs, _ in part]


def test_batches_of_one_permutation_after_the_other() -> None:
    stream = torch.Generator().manual_seed(5)
    orders = [torch.randperm(10, generator=stream).tolist() for _ in range(6)]
    own = [order[i : i + 4] for order in orders for i in (0, 4)]  # two examples of each are left out
    assert seen(None) == seen(10) == own[:2]
    assert seen(23) == own[:5]  # 23 // 4 batches, the last permutation of an epoch is broken off
    assert seen(23, epochs=2) == [*own[:5], *own[6:11]]
    assert seen(23, skipped=7) == own[8:11]


def test_a_training_has_the_steps_and_epochs_of_the_larger_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, rate = list[tuple[int, int]](), Protocol.rate

    def noted(self: Protocol, step: int, steps: int) -> float:
        asked.append((step, steps))
        return rate(self, step, steps)

    monkeypatch.setattr(Protocol, "rate", noted)
    history = train(nn.Linear(1, 2), ten(), PROTOCOL, epoch_size=23)
    assert (len(history.epochs), history.images) == (2, 2 * 5 * 4)
    assert asked == [(step, 10) for step in range(10)]


def test_networks_together_are_trained_as_each_alone() -> None:
    alone, together = ([nn.Linear(1, 2) for _ in range(2)] for _ in range(2))
    for one, other in zip(alone, together, strict=True):
        other.load_state_dict(one.state_dict())
    for seed, model in enumerate(alone):
        train(model, ten(), PROTOCOL, seed=seed, epoch_size=23)
    orders = [Order(seed) for seed in range(2)]
    train_together(together, ten(), PROTOCOL, masks=[None] * 2, orders=orders, epoch_size=23)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.weight, other.weight)


def test_a_batch_is_never_larger_than_the_training_set() -> None:
    with pytest.raises(UserError, match="batch size 11 is larger than the 10 training examples of ten"):
        Batches(ten(), [Order(0)], get_protocol("short", batch_size=11), epoch_size=100)
