"""Networks that cannot share a program with others, and lanes that memory is too short for."""

import logging
import random
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.experiment import runner, stages
from pai_bench.results import Store
from pai_bench.support.identity import stream
from pai_bench.training import trainer
from tests.execution.sweeps import same
from tests.experiment.test_runner import sweep


def test_no_memory_for_all_lanes_is_tried_with_half_of_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, sizes = trainer.train_together, []

    def small(models: Any, *arguments: Any, **keys: Any) -> Any:
        sizes.append(len(models))
        if len(models) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(models, *arguments, **keys)

    one = pb.run(sweep(lanes=1), out="one")
    monkeypatch.setattr(stages, "train_together", small)
    same(one, pb.run(sweep(lanes=6), out="two"))
    assert sizes == [6, 3, 2, 3, 2]
    assert "no memory for 6 networks at once; trying half of them" in caplog.text


def test_branches_that_had_no_memory_begin_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are trained in place: what a failure leaves of them is no longer initialised."""
    real, sizes = trainer.train_together, []

    def small(models: Any, *arguments: Any, **keys: Any) -> Any:
        sizes.append(len(models))
        found = real(models, *arguments, **keys)
        if len(models) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return found

    one = pb.run(sweep(lanes=1), out="one")
    monkeypatch.setattr(stages, "train_together", small)
    two = pb.run(sweep(lanes=6, together="branches"), out="two")
    assert one.test_accuracy.tolist() == two.test_accuracy.tolist()
    assert [record.training.curve for record in Store("one")] != []
    for before, after in zip(Store("one"), Store("two"), strict=True):
        assert [epoch.train_loss for epoch in before.training.curve] == [
            epoch.train_loss for epoch in after.training.curve
        ]
    assert sizes == [6, 3, 3]
    assert "no memory for 6 networks at once; trying half of them" in caplog.text
    assert {record.provenance.together for record in Store("two")} == {"branches"}


def test_an_error_lets_go_of_the_tensors_of_its_calls() -> None:
    """They would take the memory that is to be used again."""
    held: list[Any] = []

    def inner() -> None:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        raise RuntimeError("inner")

    def outer() -> None:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        try:
            inner()
        except RuntimeError:
            raise torch.OutOfMemoryError("outer")  # noqa: B904  # the context is what matters here

    try:
        outer()
    except torch.OutOfMemoryError as error:
        assert all(one() is not None for one in held)
        runner.forget_frames(error)
        assert all(one() is None for one in held)


def dropping(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, classes))


def shaped_by_data(shape: tuple[int, ...], classes: int) -> nn.Module:
    class Odd(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    return nn.Sequential(Odd(shape[0], 16), nn.ReLU(), nn.Linear(16, classes))


def test_memory_of_the_processor_is_split_too_and_what_fails_fails_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = trainer.train_together

    def together(models: Any, *arguments: Any, **keys: Any) -> Any:
        if len(models) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        if keys["orders"][0].seed == first:
            raise RuntimeError("not today")
        return real(models, *arguments, **keys)

    first = stream(0, "order")
    one = pb.run(sweep(lanes=1), out="one")
    monkeypatch.setattr(stages, "train_together", together)
    same(one, pb.run(sweep(lanes=6), out="two"))
    assert "no memory for 6 networks at once" in caplog.text
    assert "3 networks failed together (not today); trying one by one" in caplog.text
    assert {record.provenance.lanes for record in Store("two")} == {1, 3}


class Tied(nn.Module):
    """Two layers of one weight, which is not trained."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, classes)
        self.two.weight = self.one.weight
        self.one.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.two(self.one(x).relu()).relu())


class Moving(nn.Module):
    """A network that replaces its buffer by another."""

    mean: torch.Tensor

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(size, classes)
        self.register_buffer("mean", torch.zeros(size))

    def forward(self, x: torch.Tensor) -> Any:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
        return self.head(x - self.mean)


class Wired(nn.Module):
    """A network with a fixed projection, drawn with its weights, that is no buffer."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.projection, self.head = torch.randn(size, 16), nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head((x @ self.projection).relu())


class Chance(nn.Module):
    """A network that draws by Python."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(size, classes)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(x) * (2 if self.training and random.random() < 0.5 else 1)


def tied(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Tied(shape[0], classes)


def moving(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Moving(shape[0], classes)


def wired(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Wired(shape[0], classes)


def drawing(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Chance(shape[0], classes)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (dropping, "'1' draws at random"),
        (shaped_by_data, "vmap"),
        (tied, "'two.weight' is another name"),
        (moving, "would differ"),
        (wired, "would differ"),
        (drawing, "it draws at random in training"),
    ],
)
def test_networks_that_cannot_share_a_program_are_trained_one_by_one(
    model: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    keys: dict[str, Any] = {"models": [model], "seeds": 2, "train_disconnected": True}
    same(pb.run(sweep(lanes=1, **keys), out="one"), pb.run(sweep(lanes=4, **keys), out="two"))
    assert {record.provenance.lanes for record in Store("two")} == {1}
    assert "is trained one at a time: " in caplog.text
    assert why in caplog.text
