"""Claims on trials: exclusive among processes, taken over from those that have ended, and lost with their folder."""

import dataclasses
import functools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pai_bench.results import claim_files, claims, owners
from pai_bench.results.claims import Claims
from pai_bench.support.process_identity import ProcessIdentity, this_process
from tests.results.owners_by_hand import Process, ended, wait_until, write

FOLDER = Path("claims")

NEVER = 1e6
"""Seconds between two beats of an owner that is silent as long as a test takes."""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def names() -> set[str]:
    return set(os.listdir(FOLDER))


def test_one_process_has_a_trial() -> None:
    with Claims(FOLDER, command="pai-bench run") as first, Claims(FOLDER) as second:
        assert first.claim("t")
        assert first.claim("t")  # it is its already
        assert not second.claim("t")
        assert first.holds("t")
        assert not second.holds("t")
        holder = second.holder("t")
        assert holder is not None
        assert (holder.pid, holder.command) == (os.getpid(), "pai-bench run")
        second.release("t")  # nothing happens
        assert first.holds("t")
        first.release("t")
        first.release("t")
        assert not first.holds("t")
        assert second.holder("t") is None
        assert second.claim("t")
        assert not first.claim("t")
        assert names() == {"t.0", f"{first.owner.id}.owner.json", f"{second.owner.id}.owner.json"}
    assert names() == set()


WORKER = """
import random, sys, threading
from pathlib import Path
from pai_bench.results.claims import Claims

trials = [f"trial-{number}" for number in range(200)]
done = []

def work(seed):
    with Claims(Path("claims")) as claims:
        for trial in random.Random(seed).sample(trials, len(trials)):
            if claims.claim(trial):
                if not (record := Path("trials", trial)).exists():
                    record.open("x").close()  # an error if another one has run it
                    done.append(trial)
                claims.release(trial)

threads = [threading.Thread(target=work, args=(int(sys.argv[1]) + number,)) for number in range(2)]
sys.stdin.read()
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(done))
"""


def test_each_trial_runs_once_in_all_threads_of_all_processes() -> None:
    Path("trials").mkdir()
    start = functools.partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    processes = [start([sys.executable, "-c", WORKER, str(10 * number)]) for number in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # now they begin
        process.stdin = None
    counts = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert len(os.listdir("trials")) == sum(counts) == 200
    assert names() == set()


def test_threads_exclude_each_other_while_they_hold() -> None:
    trials, claimed, barrier = [f"trial-{number}" for number in range(200)], list[str](), threading.Barrier(8)

    def work(seed: int) -> None:
        with Claims(FOLDER) as own:
            barrier.wait()
            mine = [trial for trial in random.Random(seed).sample(trials, len(trials)) if own.claim(trial)]
            claimed.extend(mine)
            assert all(map(own.holds, mine))
            barrier.wait()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(trials)


def test_the_trials_of_a_killed_process_are_taken_over_at_once_each_by_one() -> None:
    trials = [f"trial-{number}" for number in range(20)]
    with Process(FOLDER) as process:
        assert {process.call("claim", trial) for trial in trials} == {"True"}
        with Claims(FOLDER) as own:
            assert not any(map(own.claim, trials))
            process.kill()
            with Claims(FOLDER) as other:
                barrier, claimed = threading.Barrier(2), dict[Claims, list[str]]()

                def take_over(observer: Claims) -> None:
                    barrier.wait()
                    claimed[observer] = [trial for trial in trials if observer.claim(trial)]

                threads = [threading.Thread(target=take_over, args=(observer,)) for observer in (own, other)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert sorted(claimed[own] + claimed[other]) == sorted(trials)
                assert all(own.holds(trial) for trial in claimed[own])
                assert all(other.holds(trial) for trial in claimed[other])
    assert len(names()) == 1  # but for the file of the dead process, nothing is left


def test_a_stopped_process_loses_its_trial_by_expiry() -> None:
    with Process(FOLDER) as process, Claims(FOLDER, expiry=2, beat=0.05) as own:
        assert process.call("claim", "t") == "True"
        os.kill(process.pid, signal.SIGSTOP)
        try:
            assert not own.claim("t")  # it has not ended
            wait_until(lambda: own.claim("t"))
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert process.call("holds", "t") == "False"
        assert process.call("claim", "t") == "False"
        assert own.holds("t")
        own.release("t")  # of a claim that was made over another one
        assert process.call("holds", "t") == "False"
        assert process.call("claim", "t") == "True"


def test_silence_counts_from_the_first_look_by_the_clock_of_the_observer(clock: Clock) -> None:
    with Claims(FOLDER, beat=NEVER) as silent, Claims(FOLDER, clock=clock) as own:
        assert silent.claim("t")
        clock.now = 1000  # nobody has looked yet
        assert not own.claim("t")
        for path in FOLDER.iterdir():  # what another machine's clock may say
            os.utime(path, (path.stat().st_mtime - 3600,) * 2)
        clock.now += 59
        assert not own.claim("t")
        silent._beat()
        for path in FOLDER.iterdir():
            os.utime(path, (path.stat().st_mtime + 3600,) * 2)
        clock.now += 59
        assert not own.claim("t")
        clock.now += 59
        assert own.holder("t") is not None
        clock.now += 1
        assert own.holder("t") is None
        assert own.claim("t")
        assert not silent.holds("t")


@pytest.mark.parametrize("damage", ["", "{", None, '{"id": "another"}', json.dumps({"pid": 1, "id": "x" * 16})])
def test_an_owner_without_a_file_that_can_be_read_is_silent(damage: str | None, clock: Clock) -> None:
    with Claims(FOLDER, clock=clock) as own:
        owner = write(FOLDER, this_process(), "t", beat=3)
        assert not own.claim("t")
        path = owners.path_of(FOLDER, owner.id)
        path.unlink() if damage is None else path.write_text(damage)
        clock.now = 59
        holder = own.holder("t")
        assert holder is not None
        assert str(holder) == f"a process that says nothing of itself ({owner.id})"
        clock.now = 60
        assert own.claim("t")


@pytest.mark.parametrize("content", [b"", b"\xff\0/../..", b"x" * 300])
def test_a_claim_without_an_owner_expires(content: bytes, clock: Clock) -> None:
    with Claims(FOLDER, clock=clock) as own:
        (FOLDER / "t.0").write_bytes(content)
        assert not own.claim("t")
        clock.now = 59
        assert not own.claim("t")
        clock.now = 60
        assert own.claim("t")


HERE = this_process()


@pytest.mark.parametrize(
    ("process", "at_once"),
    [
        (ended(), True),
        (dataclasses.replace(ended(), namespace="pid:[1]"), False),
        (dataclasses.replace(ended(), boot="another"), False),
        (dataclasses.replace(ended(), boot="", namespace="", start=""), False),
        (HERE, False),
    ],
    ids=["ended", "of another container", "of another machine", "unknown", "alive"],
)
def test_only_a_process_that_can_be_seen_has_ended(process: ProcessIdentity, at_once: bool, clock: Clock) -> None:
    write(FOLDER, process, "t")
    with Claims(FOLDER, clock=clock) as own:
        assert own.claim("t") is at_once
        clock.now = 61
        assert own.claim("t")


def test_an_observer_that_was_stopped_itself_waits_again(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """The others may have been stopped with it, and have had no time for a beat since."""
    with Claims(FOLDER, beat=NEVER) as silent:
        monkeypatch.setattr(claims, "time", SimpleNamespace(monotonic=clock))
        with Claims(FOLDER, beat=NEVER, clock=clock) as own:
            assert silent.claim("t")
            assert not own.claim("t")
            clock.now += 1000
            assert not own.claim("t")
            for _ in range(3):
                assert not own.claim("t")
                clock.now += 20
            assert own.claim("t")


def test_claims_that_are_released_or_made_meanwhile_are_not_taken_over() -> None:
    FOLDER.mkdir()
    assert claim_files.take(FOLDER, "t", [], "a")
    assert not claim_files.take(FOLDER, "t", [], "b")
    claim_files.remove(FOLDER, "t", 1)
    assert not claim_files.take(FOLDER, "t", ["a"], "b")  # which it has seen before
    assert names() == set()
    assert claim_files.take(FOLDER, "t", [], "c")
    assert not claim_files.take(FOLDER, "t", ["a"], "b")
    assert claim_files.row(FOLDER, "t") == ["c"]


def test_what_is_left_of_a_row_is_no_obstacle() -> None:
    """A process that is killed while it releases a claim that it had taken over leaves the last one."""
    write(FOLDER, ended(), "t")
    write(FOLDER, ended(), "t")
    (FOLDER / "t.0").unlink()
    with Claims(FOLDER) as own:
        assert not own.claim("t")
        assert own.claim("t")
        assert own.holds("t")
        own.release("t")
        assert not [name for name in names() if name.startswith("t.")]


def test_an_owner_tells_how_far_it_is() -> None:
    with Claims(FOLDER, command="run \udcff", beat=0.02) as own, Claims(FOLDER) as other:
        own.claim("t")
        own.progress("t", 3, 20)
        own.progress("another", 3, 20)
        own.totals(5, 9)
        wait_until(lambda: (holder := other.holder("t")) and holder.running)
        holder = other.holder("t")
        assert holder is not None
        assert (holder.done, holder.total, holder.command) == (5, 9, "run \\udcff")
        assert [(trial.identity, trial.epoch, trial.epochs) for trial in holder.running] == [("t", 3, 20)]
        assert str(holder) == f"{holder.host}:{os.getpid()}"
        own.release("t")
        wait_until(lambda: not owners.read(owners.path_of(FOLDER, own.owner.id)).running)


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def protect(folder: Path) -> None:
    folder.chmod(0o500)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (remove, "No such file or directory"),
        pytest.param(
            protect, "Permission denied", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
        ),
    ],
)
def test_without_its_folder_a_process_goes_on_without_claims(
    harm: Callable[[Path], None], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Claims(FOLDER, beat=0.02) as own:
        assert own.claim("t")
        harm(FOLDER)
        wait_until(lambda: own.lost)
        assert own.lost == why
        assert own.claim("u")
        assert own.holds("t")
        assert own.holds("u")
        own.release("t")
    (message,) = caplog.messages
    assert message.startswith(f"claims in claims can no longer be kept ({why}): this process continues without them")
    assert not FOLDER.exists() or harm is protect


def test_a_folder_that_cannot_be_made(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with Claims(Path("nowhere/claims")) as own:
        assert own.claim("t")
        assert own.holds("t")
        assert own.holder("t") is None
    FOLDER.touch()
    with Claims(FOLDER) as own:
        assert own.claim("t")
    assert len(caplog.messages) == 2


def test_claims_are_lost_where_one_cannot_be_made(caplog: pytest.LogCaptureFixture) -> None:
    with Claims(FOLDER, beat=NEVER) as own:
        shutil.rmtree(FOLDER)
        assert own.claim("t")
        assert own.lost == "No such file or directory"
    assert len(caplog.messages) == 1
