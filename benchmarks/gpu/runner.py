"""All stages, one after the other, each in a process of its own with its share of the minutes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TextIO

from benchmarks.gpu.archive import Archive
from benchmarks.gpu.data import data_folder, decoding
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.summary import summary

STAGES = {
    "correct": "benchmarks.gpu.correct",
    "cost": "benchmarks.gpu.cost",
    "speed": "benchmarks.gpu.speed",
    "cifar": "benchmarks.gpu.cifar",
    "snip-table-1": "benchmarks.gpu.snip_table",
}
"""Name -> module, the cheapest first."""

SHARES = {"correct": 2.3, "cost": 2.0, "speed": 2.0, "cifar": 1.0, "snip-table-1": 0.7}
"""What part of the time left a stage gets, beside the stages behind it; what it does not use is theirs."""

LEAST = 5.0
"""Seconds below which no stage is begun."""

GRACE = 0.1, 10.0
"""The part of its time, and the most seconds, by which a stage should end before it is ended."""

LINGERS = 20.0
"""Seconds that a process may take to die."""

AGAIN = 20.0
"""Seconds that must be left for a stage to go on in another process after one that died."""

ATTEMPTS = 4
"""Processes for one stage at most."""

TINY = {"OMP_NUM_THREADS": "1"}
"""For networks that are far too small for several threads."""

LONGEST = 4 * 2**20
"""Characters that are kept of what stages print."""


@dataclass(frozen=True)
class Options:
    """What is run, on what, into which folder, for how long."""

    out: Path
    minutes: float = 8.0
    stages: Mapping[str, str] = field(default_factory=lambda: dict(STAGES))
    resume: Path | None = None
    data: Path | None = None
    device: str = "auto"
    rehearse: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)


class Log:
    """Prints what stages print, and keeps it in a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.room = path, LONGEST

    def __enter__(self) -> "Log":
        self.file: TextIO = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_error: object) -> None:
        self.file.close()

    def write(self, text: str) -> None:
        """Print and keep `text`."""
        sys.stdout.write(text)
        sys.stdout.flush()
        self.file.write(text[: self.room])
        self.file.flush()
        self.room -= min(self.room, len(text))


def run(options: Options) -> int:
    """Run the stages; 0 if nothing has failed, 1 otherwise."""
    end = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    take_over(options)
    names, identity = list(options.stages), uuid.uuid4().hex[:12]
    needs_images = not options.rehearse and any(name in ("speed", "cifar") for name in names)
    with (
        Log(options.out / "log.txt") as log,
        data_folder(options.data) as environment,
        decoding(environment, wanted=needs_images and options.data is not None),
    ):
        if options.rehearse:
            environment |= TINY
        for place, name in enumerate(names):
            left = end - time.monotonic()
            share = left * share_of(name) / sum(map(share_of, names[place:]))
            if share >= LEAST:
                run_stage(name, options, log, time.monotonic() + share, identity, environment)
            text, good = summary(options.out, names)
            (options.out / "summary.txt").write_text(text, encoding="utf-8")
        log.write("\n" + text)
    for left_over in options.out.glob(".*.tar.tmp"):
        left_over.unlink()
    return 0 if good else 1


def share_of(name: str) -> float:
    """The part of the time that is a stage's."""
    return SHARES.get(name, 1.0)


def take_over(options: Options) -> None:
    """Copy what an earlier run has left, but for stages that have gone on here since."""
    if options.resume is not None:
        for name in options.stages:
            if not (options.out / f"{name}.tar").exists():
                with suppress(FileNotFoundError):
                    shutil.copyfile(options.resume / f"{name}.tar", options.out / f"{name}.tar")


def run_stage(name: str, options: Options, log: Log, end: float, run: str, environment: dict[str, str]) -> None:
    """Run a stage until `end`, in another process again if one dies with time left."""
    log.write(f"== {name}: {end - time.monotonic():.0f} s\n")
    path = options.out / f"{name}.tar"
    for _ in range(ATTEMPTS):
        left = end - time.monotonic()
        until = end - min(GRACE[0] * left, GRACE[1])
        command = [sys.executable, "-P", "-m", "benchmarks.gpu.stage", options.stages[name], "--archive", str(path)]
        command += ["--until", repr(until), "--device", options.device, "--run", run]
        command += ["--provenance", json.dumps(dict(options.provenance)), *(["--rehearse"] * options.rehearse)]
        code = watched(command, log, end, environment)
        if code == 0:
            return
        reason = "stopped: the time was over" if code is None else f"its process ended with {ending(code)}"
        ledger = Ledger(Archive(path))
        log.write(f"{name}: {reason}\n")
        if not ledger.entries and not ledger.error:
            ledger.error = reason
        ledger.settle(reason, stopped=code is None)
        if code == 1 or end - time.monotonic() < AGAIN:  # 1: it has said itself why it cannot begin
            return


def ending(code: int) -> str:
    """How a process ended."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def watched(command: Sequence[str], log: Log, end: float, environment: dict[str, str]) -> int | None:
    """The exit code of a process whose output goes to the `log`; None if it was ended at `end`."""
    path = os.pathsep.join(part or os.getcwd() for part in sys.path if isinstance(part, str))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        process_group=0,  # whatever it has started is ended with it
        env=os.environ | environment | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    pump = threading.Thread(target=follow, args=[process.stdout, log], daemon=True)
    pump.start()
    try:
        return process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(LINGERS)  # one that waits for a driver cannot even be killed
        pump.join(LINGERS)
        if not pump.is_alive():
            process.stdout.close()


def follow(stream: IO[str], log: Log) -> None:
    """Write all lines of a stream to the log."""
    for line in stream:
        log.write(line)
