"""Does a sweep lose anything when it is killed? SIGKILLs at random moments, and what is left after each.

    python -m benchmarks.kills --kills 200 -o kills.md

In each mode, a small sweep runs in as many processes as the mode says, all of which are killed and started again until
the kills are used up; then they run to the end. Counted are finished trials that a later run changed or lost, trials
that finished more than once, and the seconds of training that were lost in each kill: for each trial at work, since its
checkpoint, or since its training began. The records at the end are compared with those of an uninterrupted run.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pai_bench.results import Record, Store
from pai_bench.results.checkpoints import CheckpointFolder
from pai_bench.results.claims import FOLDER as CLAIMS

EVERY = 0.5
"""Seconds between two checkpoints, at least: with Ray, one takes so long that there are several seconds."""

LONGEST, START = 6.0, 2.0
"""Seconds until processes are killed, at most, of which two are for the start; and for that of each further process."""

EPOCHS, STEPS = 25, 1050
"""Of each trial."""

MARK = "PAI_BENCH_KILLS"
"""An environment variable by which all processes on a results folder are found: Ray's have groups of their own."""

SWEEP = {"criteria": ["snip", "random"], "models": ["lenet-300-100"], "sparsities": [0.9, 0.98], "seeds": 2}
SWEEP |= {"epochs": EPOCHS, "device": "cpu", "checkpoint_every": f"{EVERY}s"}

PROCESS = """
import json, os, sys, time
import pai_bench as pb
from pai_bench.execution import Listener

class Log(Listener):
    def note(self, *what):
        with open(sys.argv[2], "a") as file:
            file.write(json.dumps([os.getpid(), time.time(), *what]) + "\\n")
    def on_epoch(self, trial, epoch):
        self.note("epoch", trial.identity, epoch)
    def on_finish(self, trial, record, seconds):
        self.note("finish", trial.identity, record.status)

if __name__ == "__main__":
    settings = json.loads(sys.argv[3])
    backend = settings.pop("backend", "auto")
    pb.run(pb.Sweep(**settings), out=sys.argv[1], listener=Log(), backend=backend)
"""


@dataclass(frozen=True)
class Mode:
    """A way to run the sweep: how many processes on one folder, and what they are told."""

    name: str
    processes: int
    settings: Mapping[str, Any]
    slow_start: bool = False
    """Whether the time until a kill is counted from the first epoch on."""


ONE: Mapping[str, Any] = {"workers": 1, "lanes": 1}
MODES = (
    Mode("in this process", 1, ONE),
    Mode("two workers", 1, {"workers": 2, "lanes": 1}),
    Mode("stacks of four", 1, {"workers": 1, "lanes": 4}),
    Mode("two processes", 2, ONE),
    Mode("four processes", 4, ONE),
    Mode("two with stacks", 2, {"workers": 1, "lanes": 4}),
    Mode("Ray", 1, {"workers": "auto", "lanes": 1, "backend": "ray"}, slow_start=True),
)


@dataclass
class Count:
    """What was seen of a mode."""

    kills: int = 0
    changed: set[str] = field(default_factory=set)
    """Trials whose stored record was changed or lost."""
    lost: list[tuple[float, int]] = field(default_factory=list)
    """Seconds and steps of training that each kill has lost, of each trial."""
    twice: list[str] = field(default_factory=list)
    """Trials that finished more than once."""
    different: list[str] = field(default_factory=list)
    """Trials whose result is not that of an uninterrupted run."""
    trials: int = 0


def start(out: Path, settings: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """A process that runs the sweep."""
    command = [sys.executable, "-c", PROCESS, str(out), f"{out}.log", json.dumps({**SWEEP, **settings})]
    environment = os.environ | {"OMP_NUM_THREADS": "1", MARK: str(out)}
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)


def records(out: Path) -> dict[str, str]:
    """The stored records: identity -> hash of the file."""
    files = (out / Record.folder).glob("*.json")
    return {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def results(out: Path) -> dict[str, Any]:
    """What must not depend on interrupts: curves and masks by identity."""
    found = Store(out)
    return {one.identity: (one.status, one.training.curve, one.evaluation, one.pruning.mask) for one in found}


def events(out: Path) -> list[list[Any]]:
    """What the processes have noted."""
    path = Path(f"{out}.log")
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("]")]


def lost(out: Path, begun: float, killed: float) -> list[tuple[float, int]]:
    """What a kill has lost of each trial that was being trained: seconds since it was saved, and steps, at most.

    It was in the epoch after the last one that was noted, and resumes after the step of its checkpoint.
    """
    first, epochs = dict[str, float](), dict[str, int]()
    for _, when, what, identity, *more in events(out):
        if what == "epoch" and when >= begun:
            first.setdefault(identity, when)
            epochs[identity] = more[0]
    saved = {name: checkpoint for checkpoint in CheckpointFolder(out) for name in checkpoint.trials}
    found, done = [], records(out)
    for name in first.keys() - done.keys():
        when, step, steps = first[name], 0, STEPS
        if (checkpoint := saved.get(name)) is not None:
            when, step, steps = max(when, checkpoint.path.stat().st_mtime), checkpoint.step, checkpoint.steps
        found.append((killed - when, min(steps, (epochs[name] + 1) * steps // EPOCHS) - step))
    return found


def kill(out: Path) -> None:
    """End the processes on a folder, and all that they have started, at once.

    Looks twice: a process that was just started has no environment while its program is loaded.
    """
    for _ in range(2):
        while marked := processes_on(out):
            for number in marked:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        time.sleep(0.01)


def processes_on(out: Path) -> list[int]:
    """The numbers of the processes that run a sweep with a folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            found += [int(folder.name)] if f"{MARK}={out}\0".encode() in (folder / "environ").read_bytes() else []
    return found


def until_killed(mode: Mode, out: Path, begun: float, draw: random.Random) -> Iterator[None]:
    """Moments until the processes on a folder are to be killed."""
    longest = LONGEST + START * (mode.processes - 1)
    while mode.slow_start and not any(what == "epoch" and when >= begun for _, when, what, *_ in events(out)):
        yield
    deadline = time.monotonic() + draw.uniform(1.0, longest)
    while time.monotonic() < deadline:
        yield


def interrupted(mode: Mode, out: Path, kills: int, expected: Mapping[str, Any], draw: random.Random) -> Count:
    """Run a mode under so many kills, and compare its results with those `expected`."""
    count, before, number = Count(), dict[str, str](), 0
    while True:
        target, begun, last = Path(f"{out}-{number}"), time.time(), count.kills >= kills
        running = [start(target, mode.settings) for _ in range(mode.processes)]
        for _ in itertools.repeat(None) if last else until_killed(mode, target, begun, draw):
            if all(process.poll() is not None for process in running):
                break
            time.sleep(0.02)
        killed = [process for process in running if process.poll() is None]
        kill(target)
        for process in killed:
            process.wait()
        count.kills += len(killed)
        count.lost += lost(target, begun, time.time()) if killed else []
        now = records(target)
        count.changed |= {name for name, content in before.items() if now.get(name) != content}
        before = now
        if not killed:
            assert [process.returncode for process in running] == [0] * len(running), mode.name
            finish(target, count, expected)
            number, before = number + 1, {}
            if last:
                return count


def finish(out: Path, count: Count, expected: Mapping[str, Any]) -> None:
    """Add what is seen of a sweep that has run to its end."""
    found = results(out)
    times = Counter(identity for _, _, what, identity, *_ in events(out) if what == "finish")
    count.twice += [name for name, number in times.items() if number > 1]
    count.different += [name for name in expected if found.get(name) != expected[name]]
    count.trials += len(found)
    assert not list((out / "checkpoints").glob("*.safetensors"))
    assert not list((out / CLAIMS).iterdir())


def table(counts: Mapping[str, Count]) -> str:
    """What was counted, in markdown."""
    head = "| mode | kills | trials | changed or lost | finished twice | different at the end | most seconds lost | "
    lines = [head + "steps done again, at most |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for name, one in counts.items():
        numbers = (one.kills, one.trials, len(one.changed), len(one.twice), len(one.different))
        seconds, steps = max((s for s, _ in one.lost), default=0.0), sum(steps for _, steps in one.lost)
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} | {seconds:.2f} | {steps:,} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all modes, or some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of all modes together (default: 200)")
    parser.add_argument("--modes", default="", help="names with commas between (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="markdown file for the table")
    arguments = parser.parse_args()
    modes = [mode for mode in MODES if not arguments.modes or mode.name in arguments.modes.split(",")]
    draw, counts = random.Random(arguments.seed), dict[str, Count]()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAY_TMPDIR"] = folder
        for mode in modes:
            whole = Path(folder, f"whole {mode.name}")
            assert start(whole, mode.settings).wait() == 0, mode.name
            out = Path(folder, mode.name)
            counts[mode.name] = interrupted(mode, out, -(-arguments.kills // len(modes)), results(whole), draw)
            print(table({mode.name: counts[mode.name]}), flush=True)
    text = table(counts)
    if arguments.output:
        arguments.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
