"""Iterative magnitude pruning: levels, rewound states and data order, against a plain loop."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.experiment.levels import MOST_LEVELS, chain, check_levels, parent_of
from pai_bench.experiment.masks import read_mask
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.scoring import IterativePruning, Rewind, Timeline
from pai_bench.support.errors import UserError
from pai_bench.support.identity import stream
from pai_bench.training.protocol import Protocol
from tests.experiment.test_runner import blobs, sweep

STEPS, PER_EPOCH = 21, 7  # of `sweep`: 3 epochs of 240 // 32 batches


def wide(shape: tuple[int, ...], classes: int) -> nn.Module:
    """3,200 connections."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], 400), nn.ReLU(), nn.Linear(400, classes))


class Networks(dict[str, bytes]):
    """A store in memory."""

    def write(self, name: str, content: bytes) -> None:
        self[name] = content

    def read(self, name: str) -> bytes | None:
        return self.get(name)


def trials_of(criterion: str, sparsities: Any = (0.8,), **changes: Any) -> list[Trial]:
    """The trials of one seed."""
    return resolve(sweep(criteria=[criterion], sparsities=list(sparsities), seeds=1, **changes)).trials


def batches(seed: int) -> list[tuple[Tensor, Tensor]]:
    """All batches of a training, in order."""
    inputs, targets = blobs().train
    order, found = torch.Generator().manual_seed(stream(seed, "order")), []
    for _ in range(3):
        chosen = torch.randperm(240, generator=order)[: 32 * PER_EPOCH]
        found += [(inputs[part], targets[part]) for part in chosen.split(32)]
    return found


def train_by_hand(
    network: nn.Module, mask: dict[str, Tensor], protocol: Protocol, start: int, rate: Any
) -> dict[int, dict[str, Tensor]]:
    """Steps `start`, ... of SGD with momentum and decay; the state after each number of steps."""
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    pb.Mask(mask).apply_(network)
    states = {start: {name: p.detach().clone() for name, p in network.named_parameters()}}
    for step, (inputs, targets) in list(enumerate(batches(0)))[start:]:
        loss = F.cross_entropy(network(inputs), targets)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(network.named_parameters(), gradients, strict=True):
                velocity[name] = protocol.momentum * velocity[name] + g + protocol.weight_decay * p
                p.sub_(rate(step) * velocity[name])
        pb.Mask(mask).apply_(network)
        states[step + 1] = {name: p.detach().clone() for name, p in network.named_parameters()}
    return states


def largest(state: dict[str, Tensor], mask: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The mask of the largest magnitudes over all layers, among those that are left."""
    flat = torch.cat([(state[name].abs() * kept - (~kept).float()).flatten() for name, kept in mask.items()])
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[flat.argsort(descending=True)[:count]] = True
    parts = kept.split([part.numel() for part in mask.values()])
    return {name: part.view_as(mask[name]) for name, part in zip(mask, parts, strict=True)}


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ("", 1),  # 2 % of 21 steps, at least one
        ("k=0", 0),
        ("k=9", 9),  # in the middle of the second epoch
        ("k=7", 7),  # at the end of the first
        ("rewind=learning-rate", 0),
        ("rewind=learning-rate:k=50%", 10),
        ("rewind=finetune:k=5", 5),
    ],
)
def test_levels_are_those_of_a_plain_loop(options: str, start: int) -> None:
    trials, networks = trials_of(":".join(filter(None, ("imp:p=0.5", options)))), Networks()
    assert [trial.sparsity for trial in trials] == [0.0, 0.5, 0.75, 0.8]
    runner = Runner(resolve(sweep(seeds=1)), networks=networks)
    protocol = trials[0].protocol
    first = runner.inputs.model(trials[0])
    initial = {name: p.detach().clone() for name, p in first.named_parameters()}
    mask = {name: torch.ones_like(p, dtype=torch.bool) for name, p in first.named_parameters() if p.dim() == 2}
    states = train_by_hand(first, mask, protocol, 0, lambda step: protocol.rate(step, STEPS))
    level_0 = states

    def constant(_step: int) -> float:
        return protocol.rate(STEPS - 1, STEPS)

    def planned(step: int) -> float:
        return protocol.rate(step, STEPS)

    for trial, count in zip(trials, (128, 64, 32, 26), strict=True):
        record = runner.run(trial)
        assert record.status == "done", record.error
        if trial.criterion is not None:
            mask = largest(states[STEPS], mask, count)
            network = runner.inputs.model(trial)
            values = states[STEPS] if "rewind=" in options else level_0[start] if start else initial
            network.load_state_dict(values)
            states = train_by_hand(network, mask, protocol, start, constant if "finetune" in options else planned)
            kept = read_mask(record)
            assert all(torch.equal(kept[name], mask[name]) for name in mask)
            assert record.training.trainings == trials.index(trial) + 1
            assert [epoch.epoch for epoch in record.training.curve] == list(range(start // PER_EPOCH + 1, 4))
        if trial.keeps:
            tensors = stored(networks[trial.identity])
            for name, value in states[STEPS].items():
                torch.testing.assert_close(tensors[name], value, atol=1e-6, rtol=1e-5)


def stored(content: bytes) -> dict[str, Tensor]:
    """The parameters in the file of a kept network."""
    return {key.removeprefix("network."): value for key, value in safetensors.torch.load(content).items()}


def test_levels_of_several_sparsities_are_shared() -> None:
    trials = trials_of("imp", (0.9, 0.98), models=[wide])
    levels = [round(1 - 0.8**n, 12) for n in range(1, 11)]
    assert [trial.sparsity for trial in trials] == [
        0,
        *levels,
        0.9,
        *[round(1 - 0.8**n, 12) for n in range(11, 18)],
        0.98,
    ]
    kept = [trial.identity for trial in trials]
    for trial in trials[1:]:
        parent = parent_of(trial)
        assert parent is not None
        assert trial.needs[0] == parent.identity
        assert parent.identity in kept[: kept.index(trial.identity)]
    dense = trials[0]
    assert dense.keeps == (dense.identity, f"{dense.identity}@1")
    assert trials[levels.index(0.2) + 1].identity == trials_of("imp", (0.2,), models=[wide])[1].identity


@pytest.mark.parametrize(
    ("sparsity", "p", "levels"), [(0.36, 0.2, 2), (0.9, 0.2, 11), (0.98, 0.2, 18), (0.5, 0.5, 1), (0.98, 0.5, 6)]
)
def test_the_number_of_levels(sparsity: float, p: float, levels: int) -> None:
    """L = ceil(log(1 - s) / log(1 - p)), whole where it is whole."""
    (*_, last) = trials_of(f"imp:p={p:g}", (sparsity,), models=[wide])
    assert len(chain(last)) == levels
    assert last.sparsity == sparsity


@pytest.mark.parametrize(("sparsity", "p", "levels"), [(0.999999, 0.2, 62), (0.99999, 0.02, 570), (1 - 1e-9, 0.5, 30)])
def test_levels_of_very_high_sparsities(sparsity: float, p: float, levels: int) -> None:
    """Their sparsities differ by less than what the last digits of others are worth."""
    imp: Any = pb.get_criterion(f"imp:p={p:g}")
    for level in reversed(range(levels)):
        sparsity = imp.checked_sparsity_before(sparsity)
        assert sparsity == pytest.approx(1 - (1 - p) ** level, abs=1e-12)
    assert sparsity == 0


def test_variants_are_those_of_the_last_level() -> None:
    trials = trials_of("imp:p=0.5", (0.8,), variants=["none", "shuffle", "reinit"])
    assert [(trial.sparsity, trial.variant_name) for trial in trials[1:]] == [
        (0.5, "none"),
        (0.75, "none"),
        (0.8, "none"),
        (0.8, "shuffle"),
        (0.8, "reinit"),
    ]
    networks = Networks()
    runner = Runner(resolve(sweep(seeds=1)), networks=networks)
    plain, shuffled, redrawn = [runner.run(trial) for trial in trials][3:]
    assert [record.status for record in (plain, shuffled, redrawn)] == ["done"] * 3
    masks = [read_mask(record) for record in (plain, shuffled, redrawn)]
    assert masks[0].kept_per_layer() == masks[1].kept_per_layer()
    assert not all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
    assert all(torch.equal(masks[0][name], masks[2][name]) for name in masks[0])
    assert plain.evaluation != redrawn.evaluation


def test_what_is_told_of_the_costs() -> None:
    """Operations of all trainings: 3 passes of 2 * 128 operations, by 32 examples, by what is left and the steps."""
    trials, runner = trials_of("imp:p=0.5", (0.75,)), Runner(resolve(sweep(seeds=1)), networks=Networks())
    records = [runner.run(trial) for trial in trials]
    own = [3 * 32 * 2 * 128 * share * steps for share, steps in ((1, STEPS), (0.5, STEPS - 1), (0.25, STEPS - 1))]
    assert [record.training.training_flops for record in records] == pytest.approx(own)
    assert [record.training.total_training_flops for record in records[1:]] == pytest.approx([sum(own[:2]), sum(own)])
    seconds = [record.training.train_seconds or 0.0 for record in records]
    assert records[2].training.total_train_seconds == pytest.approx(sum(seconds))
    assert records[0].training.trainings is None


def test_a_disconnected_level_costs_no_operations() -> None:
    """The levels after it count those before it."""
    trials = trials_of("imp:p=0.9", (0.999,), models=[wide])
    runner = Runner(resolve(sweep(seeds=1, models=[wide])), networks=Networks())
    *_, before, disconnected, last = [runner.run(trial) for trial in trials]
    assert (disconnected.status, last.status) == ("disconnected", "disconnected")
    assert last.training.total_training_flops == before.training.total_training_flops
    assert last.training.total_training_flops


def test_what_is_refused() -> None:
    for criterion, message in (
        ("imp:p=0", r"imp: p=0 is outside \(0, 1\): it is a share"),
        ("imp:p=0.0001", rf"imp:p=0\.0001 needs more than {MOST_LEVELS:,} levels to sparsity 0\.8, and each is a"),
        ("imp:k=21", r"imp:k=21: k=21 leaves no step of 21 to train"),
        ("imp:k=22", r"imp:k=22: k 22 is not within the 21 steps of training"),
        ("imp:k=120%", r"k 120% is outside \[0, 100%\]"),
        ("imp:k=late", r"imp:k=late: k=late is not a whole number"),
    ):
        with pytest.raises(pb.UserError, match=message):
            trials_of(criterion)
    for options, message in (
        ({"epochs": 0}, "imp: k 2% is a share of the steps of training, which has none"),
        ({"target": "effective"}, "target effective has no meaning for imp, which prunes in levels"),
        ({"repair": "effective-only"}, "repair effective-only has no meaning for imp, which"),
        ({"variants": ["quota:snip"]}, "variant quota:snip has no meaning for imp, which"),
        ({"schedule": "linear:steps=3"}, "a schedule of 3 cuts has no meaning for imp, which"),
    ):
        with pytest.raises(pb.UserError, match=message):
            trials_of("imp", (0.2,), **options)
    with pytest.raises(pb.UserError, match=r"imp has more levels than connections: with \d+ left of tiny, one would"):
        trials_of("imp", (0.99,))
    with pytest.raises(pb.UserError, match="imp prunes during training"):
        pb.prune(nn.Linear(3, 2), (torch.ones(2, 3), torch.tensor([0, 1])), "imp")
    check_levels(trials_of("imp:p=0.5")[-1], 128)


def test_a_network_that_is_not_there_or_damaged_is_named(caplog: pytest.LogCaptureFixture) -> None:
    trials, networks = trials_of("imp:p=0.5:k=0", (0.5,)), Networks()
    catalog, name = resolve(sweep(seeds=1)), trials[0].identity
    runner = Runner(catalog, networks=networks)
    assert list(runner.run_together([trials[1]], lambda *_: None)) == []
    assert caplog.messages == [f"the network {name} has been removed meanwhile: it is trained again"]
    runner.run(dataclasses.replace(trials[0]))
    content = networks[name]
    for damaged in (b"damaged", content[:-1], content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]):
        networks[name] = damaged
        assert f"the network {name} is damaged" in (runner.run(trials[1]).error or "")
    networks[name] = content
    assert runner.run(trials[1]).status == "done"
    assert "is kept in a results folder" in (Runner(catalog).run(trials[1]).error or "")


def test_the_beginning_by_default() -> None:
    timeline = Timeline(steps=1000, epoch=100)
    assert [str(pb.get_criterion(f"imp:rewind={way}").beginning(timeline)) for way in ("weights", "learning-rate")] == [  # type: ignore[attr-defined]
        "Rewind(step=20, weights=True, last_rate=False)",
        "Rewind(step=0, weights=False, last_rate=False)",
    ]


@dataclass(frozen=True)
class Halved(IterativePruning):
    """Halves by magnitude, with a mistake where it is asked for one."""

    level: str = "half"
    rewind: str = "0"

    def score(self, model: Any, batch: Any) -> Any:
        return {name: weight.abs() for name, weight in model.weights().items()}

    def sparsity_before(self, sparsity: float) -> float:
        levels: dict[str, Callable[[], Any]] = {
            "half": lambda: 0.0,
            "same": lambda: sparsity,
            "mistake": lambda: 1 / 0,
            "text": lambda: "half",
        }
        return levels[self.level]()  # type: ignore[no-any-return]  # the mistakes

    def beginning(self, timeline: Timeline) -> Rewind:
        if self.rewind == "mistake":
            raise KeyError("k")
        return Rewind(float(self.rewind) if "." in self.rewind else int(self.rewind))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Later(Halved):
    """Rewinds high sparsities to a later step than low ones."""

    def beginning(self, timeline: Timeline) -> Rewind:
        return Rewind(9 if timeline.densities[-1] < 0.5 else 0)


def test_levels_that_begin_at_other_steps_are_not_trained_together() -> None:
    networks, catalog = Networks(), resolve(sweep(criteria=[Later()], sparsities=[0.2, 0.4, 0.6, 0.8], seeds=1))
    runner, (dense, *levels) = Runner(catalog, networks=networks), catalog.trials
    runner.run(dense)
    together = [record for _, records in runner.run_together(levels, lambda *_: None) for record in records]
    assert [record.provenance.lanes for record in together] == [2] * 4
    for trial, record in zip(levels, together, strict=True):
        alone = runner.run(trial)
        assert record.evaluation.test_loss == pytest.approx(alone.evaluation.test_loss, rel=1e-5)
        assert record.training.training_flops == alone.training.training_flops


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": "same"}, r"Halved.*: the level before sparsity 0\.8 would have 0\.8"),
        ({"level": "mistake"}, r"Halved.* has no level before sparsity 0\.8 \(ZeroDivisionError: .*test_levels\.py"),
        ({"level": "text"}, r"Halved.* has no level before sparsity 0\.8 \(ValueError: could not convert"),
        *(
            ({"rewind": at}, r"Halved.*: a level begins with a Rewind within 21 steps, and not")
            for at in ("21", "-1", "1.5")
        ),
        ({"rewind": "mistake"}, r"Halved.* cannot say what a level begins with .*\(KeyError: 'k' \(test_levels\.py"),
    ],
)
def test_mistakes_of_iterative_criteria_name_them(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve(sweep(criteria=[Halved(**options)], sparsities=[0.8], seeds=1))
