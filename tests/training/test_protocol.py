"""Protocols: lengths, budgets, what is in a result's name, and the published ones."""

import dataclasses
from typing import Any

import pytest

import pai_bench as pb
from pai_bench.support.registry import PROTOCOLS
from pai_bench.training.protocol import Protocol, get_protocol


def test_lengths() -> None:
    whole = Protocol(name="", epochs=3, batch_size=10, learning_rate=0.1)
    assert (whole.steps(37), whole.passes(37)) == (9, 3)
    counted = dataclasses.replace(whole, iterations=7)
    assert (counted.steps(37), counted.passes(37)) == (7, 3)
    assert (counted.lasting(2).steps(37), whole.lasting(0).passes(37)) == (6, 0)


def test_a_budget_scales_the_length_and_is_stated() -> None:
    tenth = get_protocol("openlth-resnet20").scaled(0.1)
    assert (tenth.epochs, tenth.budget) == (16, 0.1)
    assert "16 epochs (10 % of the protocol's length)" in tenth.describe()
    rates = [tenth.rate(step, 16) for step in range(16)]
    assert rates == pytest.approx([0.1] * 8 + [0.01] * 4 + [0.001] * 4)
    iterations = get_protocol("snip-mnist").scaled(0.25)
    assert (iterations.iterations, iterations.steps(54_000)) == (25_000, 25_000)
    assert get_protocol("short").scaled(1) == get_protocol("short")
    assert get_protocol("quick").scaled(0.01) == get_protocol("quick")  # one epoch is the least
    none = get_protocol("short", epochs=0).scaled(0.5)
    assert (none.epochs, none.budget) == (0, 1.0)
    for budget in (0, 1.5):
        with pytest.raises(pb.UserError, match=rf"budget {budget} is outside \(0, 1\]"):
            get_protocol("short").scaled(budget)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_settings_give_the_protocol_again(name: str) -> None:
    protocol = get_protocol(name)
    settings = protocol.settings()
    assert not {"name", "train_fraction", "unstated"} & set(settings)
    left_out = {f.name: f.metadata["left_out"] for f in dataclasses.fields(Protocol) if f.metadata}
    assert {"optimizer", "clip_norm"} <= left_out.keys()
    assert all(settings[key] != value for key, value in left_out.items() if key in settings)
    again = Protocol.of(settings)
    assert again.describe() == protocol.describe()
    assert again.settings() == settings


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, "3 epochs"),
        ({"epochs": 1}, "1 epoch"),
        ({"iterations": 1}, "1 iteration"),
        ({"iterations": 2000}, "2,000 iterations"),
        ({"budget": 0.5}, "3 epochs (50 % of the protocol's length)"),
        ({"batch_size": 7}, "batch 7"),
        ({}, "SGD"),
        ({"optimizer": "adam"}, "Adam"),
        ({}, "learning rate 0.1 (constant)"),
        ({"lr_schedule": "cosine"}, "learning rate 0.1 (cosine)"),
        ({"lr_schedule": "steps", "milestones": (0.5, 0.75)}, "learning rate 0.1 (steps at 0.5, 0.75, times 0.1)"),
        ({}, "momentum 0.9"),
        ({"nesterov": True}, "Nesterov momentum 0.9"),
        ({"weight_decay": 0.25}, "weight decay 0.25"),
        ({"augmentation": "flip-crop"}, "mirrored and shifted images"),
        ({"augmentation": "flip-0.2"}, "a fifth of the images mirrored"),
        ({"clip_norm": 2.5}, "gradients of norm 2.5 at most"),
        ({"precision": "bf16"}, "in bf16"),
    ],
)
def test_a_description_has_a_part_for_each_setting(changes: dict[str, Any], part: str) -> None:
    plain = Protocol(name="", epochs=3, batch_size=10, learning_rate=0.1, lr_schedule="constant", momentum=0.9)
    protocol = dataclasses.replace(plain, **changes)
    assert part in protocol.parts()
    assert bool(changes) == (part not in plain.parts())
    assert protocol.describe() == ", ".join(protocol.parts())


def test_published_ones() -> None:
    """Learning rates at the steps that the papers name."""
    snip = get_protocol("snip-mnist")
    steps = (0, 24_999, 25_000, 50_000, 75_000, 99_999)
    assert [snip.rate(step, snip.steps(54_000)) for step in steps] == pytest.approx([0.1, 0.1, 0.01, 1e-3, 1e-4, 1e-4])
    assert (snip.batch_size, snip.weight_decay, snip.train_fraction) == (100, 5e-4, 0.9)
    cifar = get_protocol("snip-cifar")
    assert [cifar.rate(step, 150_000) for step in (29_999, 30_000, 120_000)] == pytest.approx([0.1, 0.01, 1e-5])
    synflow = get_protocol("synflow-cifar")
    assert [synflow.rate(epoch, 160) for epoch in (59, 60, 119, 120)] == pytest.approx([0.1, 0.01, 0.01, 1e-3])
    openlth = get_protocol("openlth-resnet20")
    assert [openlth.rate(epoch, 160) for epoch in (79, 80, 119, 120)] == pytest.approx([0.1, 0.01, 0.01, 1e-3])


def test_epochs_replace_iterations() -> None:
    assert get_protocol("snip-mnist", epochs=2).steps(54_000) == 2 * 540
    assert get_protocol("snip-mnist", epochs=None).iterations == 100_000


def test_what_a_sweep_says_of_the_training_set_comes_before_the_protocol() -> None:
    from pai_bench.experiment.resolve import resolve

    def fraction(**keys: Any) -> float:
        sweep = pb.Sweep(models=["lenet-300-100"], protocol="snip-mnist", seeds=1, device="cpu", **keys)
        return resolve(sweep).trials[0].train_fraction

    assert (fraction(), fraction(train_fraction=0.5), fraction(train_fraction=1.0)) == (0.9, 0.5, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": -1}, "iterations -1 must be at least 0"),
        ({"optimizer": "adm"}, "unknown optimizer 'adm': did you mean adam"),
        ({"augmentation": "flip"}, "unknown augmentation 'flip': did you mean flip-0.2 or flip-crop"),
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
        ({"momentum": 1.0}, r"momentum 1.0 must be in \[0, 1\)"),
        ({"momentum": -0.1}, r"momentum -0.1 must be in \[0, 1\)"),
        ({"momentum": 0.0, "nesterov": True}, "above 0 for nesterov"),
        ({"clip_norm": float("inf")}, "clip norm inf must be positive"),
        ({"learning_rate": float("inf")}, "learning rate inf must be positive"),
        ({"weight_decay": float("inf")}, "weight decay inf must be at least 0"),
        ({"milestones": (0.0,)}, r"milestones \(0.0,\) must be shares of the training, in \(0, 1\)"),
        ({"milestones": (1.0,)}, r"milestones \(1.0,\) must be shares"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        dataclasses.replace(get_protocol("short"), **changes)


def test_the_least_that_a_protocol_may_have() -> None:
    least = Protocol(epochs=0, batch_size=1, learning_rate=1e-9, momentum=0.0, weight_decay=0.0, clip_norm=1e-9)
    assert least.steps(10) == least.passes(10) == 0
    assert dataclasses.replace(least, iterations=0).steps(10) == 0


STEPS = {"lr_schedule": "steps", "milestones": (0.25, 0.5, 0.75)}
CIFAR = {"batch_size": 128, "learning_rate": 0.1, "lr_schedule": "steps", "augmentation": "flip-crop"}
RIGL = CIFAR | {"nesterov": True, "gamma": 0.2}
PUBLISHED: dict[str, dict[str, Any]] = {
    # Lee et al. 2019, section 5: SGD with momentum 0.9, batch 100 or 128, rate 0.1, decay 0.0005
    "snip-mnist": {"iterations": 100_000, "batch_size": 100, "learning_rate": 0.1, "train_fraction": 0.9} | STEPS,
    "snip-mnist-code": {
        **{"iterations": 10_000, "batch_size": 100, "learning_rate": 0.1, "momentum": 0.0, "train_fraction": 0.9},
        "lr_schedule": "constant",
    },
    "snip-mnist-adam": {
        **{"iterations": 100_000, "batch_size": 100, "learning_rate": 0.001, "weight_decay": 0.0},
        **{"optimizer": "adam", "train_fraction": 0.9, **STEPS},
    },
    "snip-cifar": CIFAR | {"iterations": 150_000, "milestones": (0.2, 0.4, 0.6, 0.8), "train_fraction": 0.9},
    # Verdenius et al. 2020: 80 epochs of Adam
    "snip-it": {
        **{"epochs": 80, "batch_size": 512, "learning_rate": 0.002, "weight_decay": 0.00005, "clip_norm": 10.0},
        **{"optimizer": "adam", "lr_schedule": "constant", "augmentation": "flip-0.2"},
    },
    # Tanaka et al. 2020, appendix: 160 epochs, drops at 60 and 120, Nesterov, decay 0.0001
    "synflow-cifar": CIFAR | {"epochs": 160, "milestones": (0.375, 0.75), "nesterov": True, "weight_decay": 0.0001},
    # Frankle et al. 2021, appendix: 160 epochs, drops at 80 and 120, decay 0.0001
    "openlth-resnet20": CIFAR | {"epochs": 160, "milestones": (0.5, 0.75), "weight_decay": 0.0001},
    # Renda et al. 2020: 182 epochs, drops at 91 and 136, decay 0.0002
    "rewinding-cifar": CIFAR | {"epochs": 182, "milestones": (91 / 182, 136 / 182), "weight_decay": 0.0002},
    # Evci et al. 2020: 250 epochs of 50,000 images; Sundar & Dwaraknath 2021: of 45,000, the last batch smaller
    "rigl-cifar": RIGL | {"iterations": 250 * 50_000 // 128, "milestones": (0.3072, 0.6144, 0.9216)},
    "rigl-cifar-reproduced": RIGL | {"iterations": 88_000, "milestones": (0.3409, 0.68181), "train_fraction": 0.9},
}
USUAL: dict[str, Any] = {
    **{"epochs": 0, "momentum": 0.9, "weight_decay": 0.0005, "gamma": 0.1, "iterations": None, "optimizer": "sgd"},
    **{"nesterov": False, "augmentation": "none", "clip_norm": None, "budget": 1.0, "precision": "fp32"},
    **{"train_fraction": 1.0, "milestones": (), "unstated": ""},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_number_of_the_published_ones(name: str) -> None:
    found = dataclasses.asdict(get_protocol(name))
    assert found | {"unstated": ""} == USUAL | PUBLISHED[name] | {"name": name}


@pytest.mark.parametrize("name", ["rigl-cifar", "rigl-cifar-reproduced"])
def test_rates_of_rigl_fall_every_30_000_steps(name: str) -> None:
    protocol = get_protocol(name)
    steps = protocol.steps(50_000)
    rates = [protocol.rate(step, steps) for step in range(steps)]
    assert [i for i in range(1, steps) if rates[i] != rates[i - 1]] == list(range(30_000, steps, 30_000))


def test_our_own_ones() -> None:
    """Stored results carry their numbers: another number is another protocol."""
    keys = ("epochs", "batch_size", "learning_rate", "weight_decay", "momentum", "optimizer", "lr_schedule")
    ours = {name: [getattr(p, key) for key in keys] for name, p in PROTOCOLS.items() if name not in PUBLISHED}
    assert ours == {
        "short-adam": [10, 32, 0.005, 0.0, 0.9, "adam", "one-cycle"],
        "short-adam-bn": [2, 32, 0.002, 0.0, 0.9, "adam", "one-cycle"],
        "short": [10, 32, 0.02, 0.0005, 0.9, "sgd", "one-cycle"],
        "short-bn": [2, 32, 0.02, 0.0005, 0.9, "sgd", "one-cycle"],
        "quick": [1, 100, 0.05, 0.0005, 0.9, "sgd", "one-cycle"],
    }


def test_rates_by_hand() -> None:
    """Of four steps: up for one, down for three, each at its middle; half a cosine; tenfold drops."""
    cycle = Protocol(name="", epochs=1, batch_size=1, learning_rate=0.8)
    # middles 1/8, 3/8, 5/8, 7/8: 1/8 of 1/4 is 1/2; (1 - 3/8) / (3/4) = 5/6; 3/6; 1/6
    assert [cycle.rate(i, 4) for i in range(4)] == pytest.approx([0.4, 0.8 * 5 / 6, 0.4, 0.8 / 6])
    cosine = dataclasses.replace(cycle, lr_schedule="cosine")
    assert [cosine.rate(i, 4) for i in range(4)] == pytest.approx([0.8, 0.4 + 0.4 / 2**0.5, 0.4, 0.4 - 0.4 / 2**0.5])
    constant = dataclasses.replace(cycle, lr_schedule="constant")
    assert [constant.rate(i, 4) for i in range(4)] == [0.8] * 4
