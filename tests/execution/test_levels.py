"""Levels of iterative pruning in a sweep: in order, resumed, extended, with workers, stacked, divided in shards."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import pai_bench as pb
from pai_bench.execution import run_catalogs
from pai_bench.execution.shards import keep_shard
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Finished, Runner
from pai_bench.experiment.trial import Trial
from pai_bench.results import Store
from tests.execution.interrupts import outcome
from tests.execution.sweeps import named
from tests.experiment.test_runner import Count, sweep


def imp(**changes: Any) -> pb.Sweep:
    """Three levels, two seeds."""
    return sweep(**{"criteria": ["imp:p=0.5"], "sparsities": [0.8]} | changes)


def stored(folder: str = "r") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder, "trials").glob("*.json")}


def test_networks_are_removed_when_nobody_needs_them() -> None:
    frame = pb.run(imp(), out="r")
    assert frame.sparsity.tolist() == [0.0, 0.5, 0.75, 0.8] * 2
    assert set(frame.status) == {"done"}
    assert not Path("r", "networks").exists()
    pb.run(imp(), out="r", listener=(count := Count()))
    assert count.ran == []


@pytest.mark.parametrize("keys", [{"lanes": 1}, {"lanes": 4}, {"lanes": 4, "seeds": 3}])
def test_levels_are_the_same_alone_and_stacked(keys: dict[str, Any]) -> None:
    pb.run(imp(lanes=1, seeds=keys.get("seeds", 2)), out="whole")
    frame = pb.run(imp(criteria=["imp:p=0.5", "snip"], **keys), out="r")
    assert set(frame.status) == {"done"}
    rows = frame[frame.criterion == "imp:p=0.5"].set_index("identity").test_accuracy
    alone = pb.read_results("whole").set_index("identity").test_accuracy
    assert (rows - alone[rows.index]).abs().max() < 0.02


def test_a_level_that_is_added_trains_again_what_was_not_kept() -> None:
    pb.run(imp(sparsities=[0.5]), out="r")
    before = stored()
    pb.run(imp(), out="r", listener=(count := Count()))
    pb.run(imp(), out="whole")
    assert len(count.ran) == 4  # 0.75 and 0.8; the dense reference and level 1 run for their networks alone
    assert {name: content for name, content in stored().items() if name in before} == before
    assert outcome("r") == outcome("whole")
    assert not Path("r", "networks").exists()


def test_catalogs_with_one_folder_share_levels() -> None:
    """The second trains again what the first did not keep for it."""
    pairs = [(resolve(imp(sparsities=[sparsity], seeds=1)), "r") for sparsity in (0.5, 0.8)]
    _, records = run_catalogs(pairs)
    assert [(record.status, record.error) for record in records] == [("done", None)] * 4
    pb.run(imp(seeds=1), out="whole")
    assert outcome("r") == outcome("whole")


def test_a_trial_that_is_trained_again_may_be_taken_over_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    pb.run(imp(sparsities=[0.5], seeds=1), out="r")
    run, lost = Runner.run_together, list[Trial]()

    def run_together(self: Runner, trials: Sequence[Trial], *options: Any) -> Iterator[Finished]:
        if lost:
            yield from run(self, trials, *options)
        lost.extend(trials)

    monkeypatch.setattr(Runner, "run_together", run_together)
    assert set(pb.run(imp(seeds=1), out="r").status) == {"done"}
    assert lost[0].criterion is None


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_a_network_that_is_removed_or_damaged_meanwhile_is_trained_again(how: str) -> None:
    """Damaged, it takes --retry-failed."""

    class Harms(Count):
        done = False

        def on_start(self, trial: Trial) -> None:
            if trial.sparsity == 0.75 and not self.done:
                self.done = True
                for path in Path("r", "networks").iterdir():
                    path.unlink() if how == "removed" else path.write_bytes(path.read_bytes()[:-9])

    frame = pb.run(imp(seeds=1, lanes=1), out="r", listener=Harms())
    if how == "damaged":
        assert frame.status.tolist() == ["done", "done", "failed", "failed"]
        frame = pb.run(imp(seeds=1, lanes=1), out="r", retry_failed=True)
    assert set(frame.status) == {"done"}
    pb.run(imp(seeds=1, lanes=1), out="whole")
    assert outcome("r") == outcome("whole")
    assert not Path("r", "networks").exists()


def test_levels_of_a_level_that_has_failed_have_failed() -> None:
    class Broken(nn.Sequential):
        """Fails in training, but not when it is looked at."""

        def forward(self, input: Any) -> Any:
            if self.training and len(input) > 8:
                raise RuntimeError("no training today")
            return super().forward(input)  # type: ignore[no-untyped-call]

    def broken(shape: tuple[int, ...], classes: int) -> nn.Module:
        return Broken(nn.Flatten(), nn.Linear(shape[0], 16), nn.ReLU(), nn.Linear(16, classes))

    frame = pb.run(imp(models=[broken], seeds=1), out="r")
    assert set(frame.status) == {"failed"}
    error, *errors = frame.error
    assert "no training today" in error
    assert errors == [f"UserError: the level before it, {frame.identity[0]}, has failed"] * 3


def test_a_network_that_cannot_be_kept_fails_its_levels_once() -> None:
    Path("r").mkdir()
    Path("r", "networks").write_text("in the way")
    frame = pb.run(imp(seeds=1), out="r", listener=(count := Count()))
    assert frame.status.tolist() == ["done", "failed", "failed", "failed"]
    assert "cannot be kept" in frame.error[1]
    assert count.ran.count(frame.identity[0]) == 1


@pytest.mark.slow
def test_levels_run_in_workers() -> None:
    whole = pb.run(named(criteria=["imp:p=0.5"], sparsities=[0.8], workers=1), out="whole")
    frame = pb.run(named(criteria=["imp:p=0.5"], sparsities=[0.8], workers=2), out="r")
    assert set(frame.status) == {"done"}
    assert frame.identity.tolist() == whole.identity.tolist()
    assert not Path("r", "networks").exists()


def test_levels_are_in_the_shard_of_their_dense_reference() -> None:
    seen = []
    for index in (1, 2):
        catalog = resolve(imp(criteria=["imp:p=0.5", "snip"], seeds=4))
        keep_shard([catalog], (index, 2))
        names = {trial.identity for trial in catalog.trials}
        assert all(trial.needs[0] in names for trial in catalog.trials if trial.needs)
        seen.append(names)
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 4 * 5
    for index in (1, 2):
        pb.run(imp(), out="r", shard=f"{index}/2")
    pb.run(imp(), out="whole")
    assert outcome("r") == outcome("whole")


def test_an_interrupted_level_resumes() -> None:
    class Interrupt(Count):
        def on_epoch(self, trial: Any, epoch: int) -> None:
            if trial.sparsity == 0.75 and epoch == 2:
                raise KeyboardInterrupt

    pb.run(imp(seeds=1, lanes=1), out="whole")
    with pytest.raises(KeyboardInterrupt):
        pb.run(imp(seeds=1, lanes=1, checkpoint_every="0.001s"), out="r", listener=Interrupt())
    assert len(stored()) == 2
    assert len(list(Path("r", "networks").iterdir())) == 2  # of step 1, and of level 1
    pb.run(imp(seeds=1, lanes=1), out="r")
    assert outcome("r") == outcome("whole")
    records = {json.loads(content)["trial"]["sparsity"]: json.loads(content) for content in stored().values()}
    assert records[0.75]["trainings"] == 3
    assert not list(Store("r").path.glob("checkpoints/*"))
