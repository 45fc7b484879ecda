"""The trainer: exact masks, seeded order, learning rates, an independent loop that gives the same weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.evaluation import loss_and_accuracy
from pai_bench.training import evaluation, step, trainer
from pai_bench.training.batches import Batches, Order
from pai_bench.training.loop import Epoch
from pai_bench.training.protocol import Protocol, get_protocol
from pai_bench.training.trainer import train, train_together

PROTOCOL = Protocol(
    name="test", epochs=2, batch_size=10, learning_rate=0.1, lr_schedule="steps", milestones=(0.5,), weight_decay=0.01
)


def data(size: int = 37) -> pb.DataSet:
    """Grey images of 3 classes."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (size, 1, 6, 6), generator=generator, dtype=torch.uint8)
    targets = torch.randint(0, 3, (size,), generator=generator)
    return pb.DataSet("noise", Split(inputs, targets), Split(inputs[:11], targets[:11]), num_classes=3)


def model() -> nn.Module:
    """A convolution with batch norm and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def half_mask(network: nn.Module, seed: int = 1) -> pb.Mask:
    generator = torch.Generator().manual_seed(seed)
    return pb.Mask(
        {n: torch.rand(network.get_parameter(n).shape, generator=generator) > 0.5 for n in ("0.weight", "4.weight")}
    )


def plain_loop(seed: int, mask_after: Callable[[int, nn.Module], pb.Mask]) -> nn.Module:
    """SGD written out from its definition: decay and momentum, one step at a time, under the mask of each step."""
    plain, step = model(), 0
    mask_after(0, plain).apply_(plain)
    images, targets = data().normalised(data().train.inputs), data().train.targets
    velocity = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    order = torch.Generator().manual_seed(seed)
    for _ in range(2):
        plain.train()
        for chosen in torch.randperm(37, generator=order)[:30].split(10):  # 37 // 10 whole batches
            loss = F.cross_entropy(plain(images[chosen]), targets[chosen])
            gradients = torch.autograd.grad(loss, list(plain.parameters()))
            rate = 0.1 if step < 3 else 0.01
            with torch.no_grad():
                for (name, p), g in zip(plain.named_parameters(), gradients, strict=True):
                    velocity[name] = 0.9 * velocity[name] + g + 0.01 * p
                    p.sub_(rate * velocity[name])
            step += 1
            mask_after(step, plain).apply_(plain)
    return plain


def test_the_same_weights_as_a_plain_loop() -> None:
    network, mask = model(), half_mask(model())
    train(network, data(), PROTOCOL, mask=mask, seed=3)
    plain = plain_loop(3, lambda _step, _network: mask)
    for name, p in plain.named_parameters():
        assert torch.allclose(p, network.get_parameter(name), atol=1e-6), name


OPTIMISERS = {
    "momentum": {},
    "plain": {"momentum": 0.0},
    "nesterov": {"nesterov": True},
    "adam": {"optimizer": "adam", "learning_rate": 0.01},
    "decay": {"weight_decay": 0.1},
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("lanes", [1, 3])
def test_removed_weights_are_exactly_zero_after_every_step(
    optimiser: str, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = dataclasses.replace(PROTOCOL, **OPTIMISERS[optimiser])  # type: ignore[arg-type]
    networks = [model() for _ in range(lanes)]
    masks = [half_mask(model(), seed) for seed in range(lanes)]
    checks, real = [], step.Step.__call__

    def checked(one: step.Step, *arguments: Any) -> torch.Tensor:
        losses = real(one, *arguments)
        state = getattr(one.program, "state", None)
        for lane, mask in enumerate(masks):
            for name, keep in mask.items():
                weight = networks[0].get_parameter(name) if state is None else state[name][lane]
                assert not weight[~keep].any()
                assert weight[keep].all()
        checks.append(losses)
        return losses

    monkeypatch.setattr(step.Step, "__call__", checked)
    if lanes == 1:
        train(networks[0], data(), protocol, mask=masks[0])
    else:
        train_together(networks, data(), protocol, masks=masks, orders=[Order(lane) for lane in range(lanes)])
    assert [len(losses) for losses in checks] == [lanes] * 6
    for network, mask in zip(networks, masks, strict=True):
        assert not any(network.get_parameter(name)[~keep].any() for name, keep in mask.items())


def test_twice_the_same_is_the_same_bit_for_bit() -> None:
    one, two = model(), model()
    first, second = (train(network, data(), PROTOCOL, seed=5) for network in (one, two))
    assert first.epochs == second.epochs
    assert train(model(), data(), PROTOCOL).epochs == train(model(), data(), PROTOCOL, seed=0).epochs
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = model()
    train(other, data(), PROTOCOL, seed=6)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_evaluation_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    network = model().eval()
    logits = network(data().normalised(data().test.inputs))
    expected_loss = F.cross_entropy(logits, data().test.targets).item()
    expected = (logits.argmax(1) == data().test.targets).float().mean().item()
    for size in (1000, 4):
        monkeypatch.setattr(evaluation, "EVALUATION_BATCH", size)
        assert loss_and_accuracy(network, data(), data().test) == pytest.approx((expected_loss, expected))


def test_the_curve_has_a_point_for_each_epoch() -> None:
    seen: list[Epoch] = []
    history = train(model(), data(), PROTOCOL, on_epoch=seen.append)
    assert seen == list(history.epochs)
    assert [epoch.epoch for epoch in seen] == [1, 2]
    assert history.images == 2 * 30
    assert history.images_per_second == history.images / history.seconds


def test_no_epochs() -> None:
    network = model()
    history = train(network, data(), dataclasses.replace(PROTOCOL, epochs=0), mask=half_mask(network))
    assert history.epochs == ()
    assert history.images_per_second is None
    assert not network.get_parameter("4.weight")[~half_mask(network)["4.weight"]].any()


def test_divergence_names_the_step() -> None:
    with pytest.raises(trainer.DivergedError, match=r"diverged at step [234]: the training loss is"):
        train(model(), data(), dataclasses.replace(PROTOCOL, learning_rate=1e30))


class Failing(nn.Module):
    """Its output is not finite from a number of steps on, or when it is tested after so many."""

    def __init__(self, step: int, *, tested: bool = False) -> None:
        super().__init__()
        self.head, self.step, self.tested, self.taken = nn.Linear(36, 3), step, tested, 0

    def forward(self, x: torch.Tensor) -> Any:
        self.taken += self.training
        fails = self.taken >= self.step and self.training is not self.tested
        return self.head(x.flatten(1)) * (float("inf") if fails else 1)


@pytest.mark.parametrize("step", [1, 3, 4, 5])
def test_divergence_names_the_step_in_all_epochs(step: int) -> None:
    """Of three steps in each epoch."""
    with pytest.raises(trainer.DivergedError, match=f"^diverged at step {step}: the training loss is nan$"):
        train(Failing(step), data(), PROTOCOL)
    after = 3 if step < 4 else 6
    with pytest.raises(trainer.DivergedError, match=f"^diverged at step {after}: the test loss after it is nan$"):
        train(Failing(step, tested=True), data(), PROTOCOL)


@pytest.mark.parametrize(
    ("device", "size", "step", "examples"),
    [
        ("cpu", 784, 32, 4000),
        ("cpu", 784, 5000, 5000),
        ("meta", 784, 32, 4000),  # "meta" stands for any device but the processor
        ("meta", 784, 2000, 6000),  # of three steps
        ("meta", 2**20, 32, 256),  # 1 GiB of four bytes each
        ("meta", 2**20, 300, 300),  # as many as in a step in any case
    ],
)
def test_as_many_examples_are_evaluated_at_once_as_memory_suffices_for(
    device: str, size: int, step: int, examples: int
) -> None:
    split = Split(torch.empty(2, size, device=device), torch.empty(2, device=device))
    assert evaluation.evaluated_at_once(split, step) == examples


def test_convolutions_are_laid_out_channels_last_unless_asked_not_to() -> None:
    for engine, last in ((trainer.ENGINE, True), (trainer.Engine(channels_last=False), False)):
        network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 3))
        network[1].to(memory_format=torch.contiguous_format if last else torch.channels_last)
        train(network, data(), PROTOCOL, engine=engine)
        assert network.get_parameter("1.weight").is_contiguous(memory_format=torch.channels_last) == last


def test_a_batch_larger_than_the_data() -> None:
    with pytest.raises(pb.UserError, match="batch size 38 is larger than the 37"):
        train(model(), data(), dataclasses.replace(PROTOCOL, batch_size=38))


def test_learning_rates() -> None:
    def rates(schedule: str, **changes: object) -> list[float]:
        protocol = dataclasses.replace(PROTOCOL, learning_rate=1.0, lr_schedule=schedule, **changes)  # type: ignore[arg-type]
        return [protocol.rate(step, 8) for step in range(8)]

    assert rates("constant") == [1.0] * 8
    assert rates("steps", milestones=(0.5, 0.75)) == pytest.approx([1] * 4 + [0.1] * 2 + [0.01] * 2)
    assert rates("cosine")[::4] == pytest.approx([1, 0.5])
    assert rates("one-cycle") == pytest.approx([1 / 4, 3 / 4, *((7.5 - step) / 6 for step in range(2, 8))])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "epochs -1 must be at least 0"),
        ({"batch_size": 0}, "batch size 0 must be at least 1"),
        ({"learning_rate": 0.0}, "learning rate 0.0 must be positive"),
        ({"learning_rate": float("nan")}, "learning rate nan must be positive"),
        ({"weight_decay": -1.0}, "weight decay -1.0 must be at least 0"),
        ({"lr_schedule": "cosin"}, "did you mean cosine"),
        ({"milestones": "x"}, "milestones 'x' must be shares"),
        ({"milestones": 0.5}, "milestones 0.5 must be shares"),
        ({"milestones": (0.5, 1.5)}, "milestones .0.5, 1.5. must be shares"),
    ],
)
def test_mistakes(changes: dict[str, float], message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        get_protocol("short", **changes)


@pytest.mark.gpu
def test_a_cuda_device_gives_what_the_cpu_gives() -> None:
    one, two = model(), model().cuda()
    cpu, cuda = train(one, data(), PROTOCOL), train(two, data().to("cuda"), PROTOCOL)
    assert cuda.epochs[-1].train_loss == pytest.approx(cpu.epochs[-1].train_loss, rel=1e-3)


@pytest.mark.parametrize("optimiser", ["momentum", "adam"])
def test_weights_that_lie_apart_in_memory_are_trained_as_others(optimiser: str) -> None:
    networks = [model(), model()]
    with torch.no_grad():
        weight = networks[1].get_parameter("4.weight")
        weight.data = torch.stack([weight, weight], 2)[..., 0]
    assert networks[1].get_parameter("4.weight").stride() == (128, 2)
    protocol = dataclasses.replace(PROTOCOL, **OPTIMISERS[optimiser])  # type: ignore[arg-type]
    for network in networks:
        train(network, data(), protocol, mask=half_mask(model()))
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)


def test_a_training_set_may_be_smaller_than_a_batch_that_is_never_taken() -> None:
    assert train(model(), data(), dataclasses.replace(PROTOCOL, epochs=0, batch_size=38)).epochs == ()
    with pytest.raises(pb.UserError, match="batch size 38 is larger than the 37"):
        train(model(), data(), dataclasses.replace(PROTOCOL, epochs=0, iterations=1, batch_size=38))


def test_trials_have_training_sets_of_one_size() -> None:
    orders = [Order(0, torch.arange(20)), Order(1, torch.arange(10))]
    with pytest.raises(ValueError, match=r"trials with training sets of different sizes, \[10, 20\], have no common"):
        Batches(data(), orders, PROTOCOL)


def test_a_part_of_a_training_set_that_is_no_images() -> None:
    rows = torch.arange(40.0).view(20, 2)
    numbers = pb.DataSet("rows", Split(rows, torch.arange(20) % 2), Split(rows, torch.arange(20) % 2))
    ((inputs, targets),) = Batches(numbers, [Order(0, torch.arange(10, 20))], PROTOCOL).epoch()
    assert sorted(inputs.flatten().tolist()) == [*range(20, 40)]
    assert (inputs[0, :, 0] / 2 % 2).tolist() == targets[0].tolist()
