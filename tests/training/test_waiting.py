"""Nothing in an epoch waits for the device: no operation is made whose result the processor needs."""

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pai_bench as pb
from pai_bench.training.batches import Batches, Order
from pai_bench.training.step import Step
from pai_bench.training.trainable_groups import Branches, SingleModel, StackedModels, TrainableGroup
from pai_bench.training.trainer import train
from tests.training.test_branches import PROTOCOL, images, masks_of, networks

WAITING = {"_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "masked_select", "unique", "_unique2"}
"""Operations that give the processor a number, a truth or a size."""


class Waits(TorchDispatchMode):
    """Notes the operations that would wait for a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, indices = func.overloadpacket.__name__, args[1] if len(args) > 1 else None
        by_mask = name in ("index", "index_put", "index_put_") and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in indices or ()
        )
        if name in WAITING or by_mask:
            self.made.append(name)
        return func(*args, **(kwargs or {}))


def test_what_waits_is_seen() -> None:
    x = torch.ones(3)
    with Waits() as waits:
        assert x.sum() > 0
        assert len(x[x > 0]) == 3
    assert waits.made == ["_local_scalar_dense", "index"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["alone", "stacked", "branches"])
@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5-caffe", "resnet-20"])
def test_a_step_with_its_batch_does_not_wait(name: str, kind: str, optimizer: str) -> None:
    shape = (3, 28, 28) if name == "lenet-5-caffe" else (3, 8, 8)
    count = 1 if kind == "alone" else 2
    models = [pb.create_model(name, input_shape=shape, num_classes=3, seed=i) for i in range(count)]
    program: TrainableGroup
    if kind == "alone":
        program = SingleModel(models[0])
    else:
        program = (StackedModels if kind == "stacked" else Branches)(models, masks_of(models))
    changes: dict[str, Any] = {"optimizer": optimizer, "augmentation": "flip-crop"}
    protocol = dataclasses.replace(PROTOCOL, **changes)
    stream = Batches(images(shape), [Order(i) for i in range(len(models))], protocol).endless()
    step = Step(program, protocol)
    step(*next(stream), 0.1)
    with Waits() as waits:
        for _ in range(6):  # more than an epoch
            inputs, targets = next(stream)
            step(inputs, targets, 0.1)
    assert waits.made == []


def test_the_order_of_an_epoch_may_be_drawn_ahead() -> None:
    """As it is while the device is busy with the epoch before: the batches are the same."""
    protocol = dataclasses.replace(PROTOCOL, augmentation="flip-crop")
    plain, ahead = (Batches(images(), [Order(0), Order(1)], protocol) for _ in range(2))
    for _ in range(3):
        ahead.draw_ahead()
        drawn = ahead._drawn
        assert drawn is not None
        ahead.draw_ahead()
        assert ahead._drawn is drawn  # nothing more
        for one, other in zip(plain.epoch(), ahead.epoch(), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_training_draws_every_epoch_but_the_first_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, real = [], Batches.draw_ahead

    def draw_ahead(batches: Batches) -> None:
        drawn.append(batches)
        real(batches)

    monkeypatch.setattr(Batches, "draw_ahead", draw_ahead)
    train(networks()[0], images(), dataclasses.replace(PROTOCOL, epochs=3))
    assert len(drawn) == 2  # not one that is never trained
