"""Trials that other processes run, have stored, or leave: claims of a sweep."""

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import pai_bench as pb
from pai_bench.execution import catalog_run, run_catalog
from pai_bench.execution.listener import Listener
from pai_bench.experiment import stages
from pai_bench.experiment.inputs import Inputs
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.stages import Pruned
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, Store, TrialMetrics, claim_files
from pai_bench.results.checkpoints import CheckpointFolder
from pai_bench.results.claims import Claims
from tests.execution.interrupts import Interrupts, Notes, interrupted_stack, outcome
from tests.experiment.test_runner import Fails, sweep
from tests.results.owners_by_hand import ended, write


def other(folder: str) -> Claims:
    """What another process would have: it lives, but not as this process does."""
    Path(folder, "trials").mkdir(parents=True, exist_ok=True)
    return Claims(Path(folder, "claims"), expiry=60)


def test_trials_of_another_process_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All others are run meanwhile; what the other process has stored, or left, is looked at again."""
    pb.run(sweep(), out="whole")
    names = [trial.identity for trial in resolve(sweep()).trials]
    stored, left, *rest = names
    naps = list[float]()

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            shutil.copy(f"whole/trials/{stored}.json", "r/trials")
            there.release(stored)
        if len(naps) == 3:
            there.release(left)

    monkeypatch.setattr("pai_bench.execution.catalog_run.time.sleep", sleep)
    with other("r") as there:
        assert there.claim(stored)
        assert there.claim(left)
        listener = Notes()
        records = run_catalog(resolve(sweep()), "r", listener=listener)
    assert listener.ran == [*rest, left]
    assert listener.skipped == [stored]
    assert listener.waited == [(2, [str(there.owner)])]
    assert [record.identity for record in records] == names
    assert naps == [catalog_run.POLL] * 3
    assert outcome("r") == outcome("whole")


def test_halves_of_a_stack_for_which_memory_is_short_resume_as_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not as the stack that was there before, for which memory would be short again."""
    trials, train = interrupted_stack(), stages.train_networks

    def short(inputs: Inputs, networks: Sequence[Pruned], *options: Any) -> Any:
        if len(networks) > 2:
            raise torch.OutOfMemoryError("no memory")
        return train(inputs, networks, *options)

    monkeypatch.setattr(stages, "train_networks", short)
    halves = list[tuple[str, ...]]()
    for after in (3, 1):
        with pytest.raises(KeyboardInterrupt):
            run_catalog(resolve(sweep(lanes=3)), "r", listener=Interrupts(after))
        halves += [checkpoint.trials for checkpoint in CheckpointFolder(Path("r"))]
    assert halves == [trials[:1], trials[1:2]]
    run_catalog(resolve(sweep(lanes=3)), "r")
    assert {record.status for record in Store("r")} == {"done"}
    assert list(Path("r/checkpoints").iterdir()) == []


def test_a_checkpoint_of_another_process_is_its_own_as_long_as_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then all of it is taken over."""
    run_catalog(resolve(sweep(lanes=3)), "whole")
    with pytest.raises(KeyboardInterrupt):
        run_catalog(resolve(sweep(lanes=3)), "r", listener=Interrupts(3))
    (checkpoint,) = CheckpointFolder(Path("r"))
    with other("r") as there:
        for name in checkpoint.trials:
            assert there.claim(name)

        def sleep(_seconds: float) -> None:
            for name in checkpoint.trials:
                there.release(name)

        monkeypatch.setattr("pai_bench.execution.catalog_run.time.sleep", sleep)
        listener = Notes()
        run_catalog(resolve(sweep(lanes=3)), "r", listener=listener)
    assert listener.ran[-3:] == list(checkpoint.trials)
    assert outcome("r") == outcome("whole")


def test_who_has_lost_its_claim_drops_its_result(caplog: pytest.LogCaptureFixture) -> None:
    """Another process has taken the trial over, and stored it, when this one has just trained it."""
    pb.run(sweep(), out="whole")
    first = resolve(sweep()).trials[0].identity

    class Stopped(Notes):
        def on_epoch(self, trial: Trial, epoch: int) -> None:
            if trial.identity == first and epoch == 3:
                for claim in Path("r/claims").glob(f"{first}.*"):
                    claim.unlink()
                shutil.copy(f"whole/trials/{first}.json", "r/trials")

    listener = Stopped()
    run_catalog(resolve(sweep(lanes=1)), "r", listener=listener)
    assert listener.skipped == [first]
    assert first not in listener.ran
    assert Path(f"r/trials/{first}.json").read_bytes() == Path(f"whole/trials/{first}.json").read_bytes()
    assert f"trial {first} was stored by another process: its result here is dropped" in caplog.messages


@pytest.mark.parametrize(("lanes", "taken"), [(1, 1), (3, 3), (3, 1)])
@pytest.mark.parametrize("every", ["0.0001s", "1h"])
def test_who_has_lost_its_claim_trains_and_saves_no_longer(
    lanes: int, taken: int, every: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the new owner saves is not overwritten; later, the trials are taken back from it, and resume."""
    run_catalog(resolve(sweep(lanes=lanes)), "whole")
    catalog = resolve(sweep(lanes=lanes, checkpoint_every=every))
    names = [trial.identity for trial in catalog.trials][:lanes]
    monkeypatch.setattr("pai_bench.training.checkpoints.MOST_SHARE", 1e9)  # saved after each step
    epochs, saved, naps = list[int](), list[dict[str, bytes]](), list[float]()

    class Stopped(Notes):
        def on_epoch(self, trial: Trial, epoch: int) -> None:
            if trial.identity == names[0] and not naps:
                epochs.append(epoch)
                if epoch == 1:
                    for name in names[:taken]:
                        row = claim_files.row(there.folder, name)
                        assert claim_files.take(there.folder, name, row, there.owner.id)
                    saved.append(checkpoints())

    def checkpoints() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in Path("r").glob("checkpoints/*")}

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        saved.append(checkpoints())
        for name in names[:taken]:
            there.release(name)

    monkeypatch.setattr("pai_bench.execution.catalog_run.time.sleep", sleep)
    with other("r") as there:
        run_catalog(catalog, "r", listener=Stopped())
    assert epochs == [0, 1]
    assert saved[0] == saved[1]
    assert bool(saved[0]) == (every != "1h")
    assert {record.status for record in Store("r")} == {"done"}
    if lanes == taken:  # or else some are trained with fewer others
        assert outcome("r") == outcome("whole")
    assert checkpoints() == {}
    assert list(Path("r/claims").iterdir()) == []


def test_a_trial_does_not_begin_again_where_all_claims_disappear() -> None:
    epochs = list[int]()

    class Removes(Notes):
        def on_epoch(self, trial: Trial, epoch: int) -> None:
            epochs.append(epoch)
            if epoch == 1:
                shutil.rmtree("r/claims", ignore_errors=True)

    run_catalog(resolve(sweep(lanes=1, seeds=1, criteria=["random"])), "r", listener=Removes())
    assert epochs == [0, 1, 2, 3] * 2


def test_a_record_that_is_there_already_stays() -> None:
    """Of a process that knows nothing of claims, say."""
    pb.run(sweep(), out="whole")
    first = resolve(sweep()).trials[0].identity

    class Busy(Notes):
        def on_epoch(self, trial: Trial, epoch: int) -> None:
            if trial.identity == first and epoch == 1:
                shutil.copy(f"whole/trials/{first}.json", "r/trials")

    listener = Busy()
    run_catalog(resolve(sweep(lanes=1)), "r", listener=listener)
    assert listener.skipped == [first]
    assert Path(f"r/trials/{first}.json").read_bytes() == Path(f"whole/trials/{first}.json").read_bytes()


def test_a_failed_trial_that_another_process_has_run_again_is_not_run_once_more() -> None:
    pb.run(sweep(criteria=[Fails()]), out="r")
    failed = [record.identity for record in Store("r") if record.status == "failed"]
    catalog = resolve(sweep(criteria=[Fails()]))

    class Busy(Notes):
        def on_planning(self, trials: int) -> None:
            run_catalog(resolve(sweep(criteria=[Fails()])), "r", retry_failed=True)

    listener = Busy()
    run_catalog(catalog, "r", listener=listener, retry_failed=True)
    assert (listener.ran, sorted(listener.skipped)) == ([], sorted(failed))


def test_what_is_claimed_and_done_is_told_to_the_others() -> None:
    seen = list[Any]()

    class Looks(Listener):
        def on_epoch(self, trial: Trial, epoch: int) -> None:
            seen.append((trial.identity, epoch, claims.owner.done, claims.owner.total))

    made: list[Claims] = []
    begin = Claims.__enter__

    def enter(self: Claims) -> Claims:
        made.append(self)
        return begin(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Claims, "__enter__", enter)
        patch.setattr(Looks, "on_begin", lambda *_: None)
        listener = Looks()
        claims: Any = type("Late", (), {"owner": property(lambda _self: made[0].owner)})()
        run_catalog(resolve(sweep(lanes=1)), "r", listener=listener)
    assert [(done, total) for _, epoch, done, total in seen if epoch == 3] == [(number, 6) for number in range(6)]


def test_what_a_process_has_left_that_was_killed_after_its_last_trial_is_removed() -> None:
    pb.run(sweep(), out="r")
    write(Path("r/claims"), ended(), next(iter(Store("r"))).identity)
    pb.run(sweep(), out="r")
    assert list(Path("r/claims").iterdir()) == []


def test_a_record_written_by_two_is_that_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file system has no links."""
    pb.run(sweep(seeds=1), out="r")
    first, second, *_ = Store("r")
    store = Store("s", create=True)
    assert store.write(first, is_new=True)

    def refuse(*_paths: Any) -> None:
        raise OSError("no links here")

    for links in (os.link, refuse):
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", links)
            patch.setattr(Store, "holds", lambda *_args: False)  # it comes between
            before = store.path_of(Record, first.identity).read_bytes()
            assert not store.write(first, is_new=True)
            assert store.path_of(Record, first.identity).read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        assert store.write(second, is_new=True)
    assert [one.identity for one in Store("s")] == sorted([first.identity, second.identity])
    assert not list(Path("s/trials").glob(".*"))


@pytest.mark.parametrize("held", [0, 1, 2])
def test_a_stack_is_claimed_by_its_first_trial_and_stored_once(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds one trial of the checkpoint for a while, and leaves it without a result."""
    run_catalog(resolve(sweep(lanes=3)), "whole")
    trials, written = interrupted_stack(), list[str]()
    write = Store.write

    def noted(self: Store, result: Any, **options: Any) -> bool:
        written.append(result.identity)
        return write(self, result, **options)

    monkeypatch.setattr(Store, "write", noted)
    with other("r") as there:
        assert there.claim(trials[held])
        monkeypatch.setattr("pai_bench.execution.catalog_run.time.sleep", lambda _seconds: there.release(trials[held]))
        listener = Notes()
        run_catalog(resolve(sweep(lanes=3)), "r", listener=listener)
    names = [trial.identity for trial in resolve(sweep()).trials]
    assert sorted(written) == sorted(listener.ran) == sorted(names)
    assert listener.skipped == []
    assert [record.status for record in Store("r")] == ["done"] * len(names)
    assert list(Path("r/checkpoints").iterdir()) == []
    if held == 0:  # the whole stack waited
        assert outcome("r") == outcome("whole")


def test_a_checkpoint_that_another_process_leaves_meanwhile_is_resumed() -> None:
    """Of a stack that this process would have run one by one."""
    run_catalog(resolve(sweep(lanes=3)), "whole")
    trials = interrupted_stack()
    (checkpoint,) = CheckpointFolder(Path("r"))
    hidden = checkpoint.path.rename("hidden")

    class Late(Notes):
        def on_start(self, trial: Trial) -> None:
            if hidden.exists() and trial.identity not in trials:
                hidden.rename(checkpoint.path)

    listener = Late()
    sweeps = sweep(lanes=1, criteria=["random", "snip"])  # the others of the checkpoint come later
    last = [trial.identity for trial in resolve(sweeps).trials]
    run_catalog(resolve(sweeps), "r", listener=listener)
    assert sorted(listener.ran) == sorted(last)
    assert {record.provenance.lanes for record in Store("r") if record.identity in trials} <= {1, 3}
    assert list(Path("r/checkpoints").iterdir()) == []


def test_a_record_is_written_again_after_an_error_that_passes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link, naps, times = os.link, list[float](), 2

    def stale(*paths: Any) -> None:
        nonlocal times
        times -= 1
        if times >= 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        link(*paths)

    monkeypatch.setattr("pai_bench.results.folder.outfile.link", stale)
    monkeypatch.setattr("pai_bench.results.folder.time.sleep", naps.append)
    records = run_catalog(resolve(sweep(lanes=6)), "r")
    assert len(records) == len(list(Store("r"))) == 6
    assert naps == [1.0, 5.0]


def test_the_loser_of_a_race_leaves_the_mask_and_the_evaluation_of_the_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    pb.run(sweep(seeds=1), out="r")
    store = Store("r")
    record = next(one for one in store if one.trial["criterion"])
    store.write(TrialMetrics(identity=record.identity, metrics={}))
    store.mask_of(record.identity).write_bytes(b"of the winner")
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}
    lexists = os.path.lexists
    with monkeypatch.context() as patch:
        patch.setattr("pai_bench.results.folder.os.path.lexists", lambda path: False)  # the other one comes after this
        patch.setattr("pai_bench.support.outfile.os.path.lexists", lexists)
        assert not store.write(record, is_new=True)
    assert {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()} == before
