"""Networks that become smaller while they are trained, beside whole ones under masks: the same steps, by hand.

A unit whose row, bias and columns are zero adds nothing, and no batch norm counts it.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pai_criteria.snap import SNAPit
from torch import Tensor

from pai_bench.experiment import changes
from pai_bench.experiment.changes import Lane
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.groups import GroupMask, shrink
from pai_bench.groups.combined import CombinedMask
from pai_bench.masks import Mask
from pai_bench.scoring import Moment
from pai_bench.training.events import Pause
from tests.experiment.plain_training import PlainTraining, prepared, runner_of, same, trained

ADAM: dict[str, Any] = {"protocol": "short-adam", "learning_rate": 0.005}
OPTIMISERS = pytest.mark.parametrize("optimiser", [{}, ADAM], ids=["momentum", "adam"])
LAYERS = {"2": "4", "4": "6"}
"""The layers of the network whose outputs are units, and those that read them."""


class PlainUnits(PlainTraining):
    """The training of the whole network of 12 and 8 hidden units, of which some are zero with all that is theirs."""

    def __init__(self, runner: Runner, trial: Trial) -> None:
        super().__init__(runner, trial)
        self.mask |= {f"{layer}.bias": torch.ones(size, dtype=torch.bool) for layer, size in (("2", 12), ("4", 8))}
        self.alive = {layer: torch.ones(len(self.mask[f"{layer}.bias"]), dtype=torch.bool) for layer in LAYERS}

    def remove_units(self, kept: int) -> None:
        """Remove the units with the lowest |sum of w * g over row and bias|, but for the best of each layer."""
        products = self.products()
        scores = {n: (products[f"{n}.weight"].sum(1) + products[f"{n}.bias"]).abs() for n in LAYERS}
        living = [(float(scores[n][i]), n, i) for n in LAYERS for i in self.alive[n].nonzero().flatten().tolist()]
        best = {n: max(unit for unit in living if unit[1] == n) for n in LAYERS}
        removable = sorted(unit for unit in living if unit not in best.values())
        for _, layer, unit in removable[: len(living) - kept]:
            self.alive[layer][unit] = False
        self.replace(self.of_units())

    def of_units(self) -> dict[str, Tensor]:
        """The mask of all that the living units have, and of the rest."""
        mask = dict(self.mask)
        for layer, reader in LAYERS.items():
            alive = self.alive[layer]
            mask[f"{layer}.bias"] = alive
            mask[f"{layer}.weight"] = mask[f"{layer}.weight"] & alive[:, None]
            mask[f"{reader}.weight"] = mask[f"{reader}.weight"] & alive
        return mask


def compare(runner: Runner, trial: Trial, plain: PlainUnits) -> GroupMask:
    """The same units, and the weights of the smaller network in the whole one; gives the mask."""
    (found,) = trained(runner, [trial])
    whole, mask = plain.run(), found.mask
    assert isinstance(mask, GroupMask)
    for layer, alive in plain.alive.items():
        assert torch.equal(mask[f"{layer}.weight"].any(1), alive), layer
    same(found.model, shrink(whole, mask))
    assert sum(p.numel() for p in found.model.parameters()) < sum(p.numel() for p in whole.parameters())
    return mask


@OPTIMISERS
def test_snap_it_during_training(optimiser: dict[str, Any]) -> None:
    """Of 20 units 16, 12 and 8 are left after 1, 2 and 3 epochs."""
    keys: dict[str, Any] = {"schedule": "linear:steps=3", "sparsities": [0.6], "sparsity_of": "nodes", **optimiser}
    runner, (_, trial) = runner_of(["snap-it:when=during:delay=0:every=1"], **keys)
    plain = PlainUnits(runner, trial)
    for step, kept in ((4, 16), (8, 12), (12, 8)):
        plain.after[step] = lambda kept=kept: plain.remove_units(kept)  # type: ignore[misc]
    compare(runner, trial, plain)
    assert sum(int(alive.sum()) for alive in plain.alive.values()) == 8


@OPTIMISERS
@pytest.mark.parametrize(("criterion", "cuts"), [("snap", [8]), ("snap-it", [16, 12, 8])])
def test_units_pruned_after_some_steps(criterion: str, cuts: list[int], optimiser: dict[str, Any]) -> None:
    keys: dict[str, Any] = {"sparsities": [0.6], "sparsity_of": "nodes", "prune_at": "5", **optimiser}
    keys |= {"schedule": "linear:steps=3"} if criterion == "snap-it" else {}
    runner, (_, trial) = runner_of([criterion], **keys)
    plain = PlainUnits(runner, trial)

    def prune() -> None:
        for kept in cuts:
            plain.remove_units(kept)

    plain.after[5] = prune
    compare(runner, trial, plain)


@OPTIMISERS
def test_cnip_it_during_training(optimiser: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the masks that its cuts give, units and single weights; each cut keeps the exact number of weights."""
    masks, real = dict[int, CombinedMask](), Lane.shrink

    def shrinking(lane: Lane, pause: Pause) -> None:
        real(lane, pause)
        assert isinstance(lane.mask, CombinedMask)
        masks[pause.step] = lane.mask

    monkeypatch.setattr(changes.Lane, "shrink", shrinking)
    keys: dict[str, Any] = {"schedule": "halving:steps=1", "sparsities": [0.9], **optimiser}
    runner, (_, trial) = runner_of(["cnip-it:when=during:delay=0:every=1"], **keys)
    trained(runner, [trial])
    assert {step: mask.kept for step, mask in masks.items()} == {4: 276, 8: 166, 12: 55}  # of 552: 50, 70, 90 %
    monkeypatch.undo()
    plain = PlainUnits(runner, trial)
    for step, mask in masks.items():

        def cut(mask: CombinedMask = mask) -> None:
            plain.alive = {layer: units_of(mask, layer) for layer in LAYERS}
            plain.mask |= {name: plain.mask[name] & keep for name, keep in mask.items()}
            plain.replace(plain.of_units())

        plain.after[step] = cut
    (found,) = trained(runner, [trial])
    whole, last = plain.run(), masks[12]
    same(found.model, shrink(whole, last))
    assert not all(bool(alive.all()) for alive in plain.alive.values())
    single = last.shrunk()
    assert 0 < single.kept < single.size  # single weights of the units that are left are gone, too
    assert not any(found.model.get_parameter(name)[~keep].any() for name, keep in single.items())


def units_of(mask: CombinedMask, layer: str) -> Tensor:
    """Which units of a layer the groups keep, whatever single weights there are."""
    kept: Tensor = GroupMask(mask.groups, mask.kept_groups)[f"{layer}.weight"].any(1)
    return kept


def test_a_network_begins_whole_and_ends_without_the_units() -> None:
    """The mask is of the whole network, and what trains of the smaller one."""
    runner, (_, trial) = runner_of(["snap-it:when=during:delay=0:every=1"], schedule="one-shot", sparsities=[0.5])
    made = prepared(runner, trial)
    assert isinstance(made.mask, GroupMask)
    assert made.mask.sparsity == 0
    (found,) = trained(runner, [trial])
    assert isinstance(found.mask, GroupMask)
    assert found.mask.kept <= 276
    assert isinstance(found.mask, Mask)
    assert sum(p.numel() for p in found.model.parameters() if p.dim() > 1) == found.mask.kept


@dataclass(frozen=True)
class Looking(SNAPit):
    """Looks at more than it has."""

    reads: str = "score"

    def change(self, moment: Moment) -> Any:
        getattr(moment, self.reads)(*() if self.reads == "score" else ({}, 0.5))


@pytest.mark.parametrize("reads", ["score", "select"])
def test_methods_that_remove_units_have_cuts_alone(reads: str) -> None:
    method = Looking(reads=reads, when="during", delay=0, every=1)
    runner, (_, trial) = runner_of([method], schedule="linear:steps=2")
    said = "removes whole units: its moments have cut, not score or select"
    assert said in (runner.run(trial).error or "")
