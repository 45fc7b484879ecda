"""The verb `status`: which processes run trials of a results folder, and how far they are. Nothing is written there."""

import argparse
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pai_bench.cli.console import FAILED, make_console, print_table
from pai_bench.cli.folders import printable
from pai_bench.support.errors import UserError, reason
from pai_bench.support.process_identity import has_ended
from pai_bench.support.processes import HEARTBEAT

if TYPE_CHECKING:
    from rich.console import Console

    from pai_bench.results.checkpoints import Checkpoint
    from pai_bench.results.owners import Owner

WATCH = 1.2 * HEARTBEAT
"""Seconds in which a process that lives writes its file once more."""

LOOK = 0.2
"""Seconds between two looks at the files."""

LONGEST_COMMAND = 60
"""Characters of a command that are shown."""

RUNNING, DEAD = "running", "dead: its process is gone"


def status(arguments: argparse.Namespace) -> int:
    """``pai-bench status``."""
    from pai_bench.results import Record, Store, claims
    from pai_bench.results.checkpoints import CheckpointFolder

    console, results = make_console(), Path(arguments.results)
    trials, folder = results / Record.folder, results / claims.FOLDER
    if not os.path.isdir(trials):
        store = Store(results)  # or an error that says what is there
        if store.archived:
            console.print(f"{printable(str(results))} is a file of records: nothing runs there", soft_wrap=True)
            return 0
    try:
        number = count(trials)
        with console.status("waiting for signs of life"):
            states, damaged = watch(folder)
    except OSError as error:
        raise UserError(f"results folder {results} cannot be read ({reason(error)})") from error
    stored = "1 trial is" if number == 1 else f"{number:,} trials are"
    console.print(f"{printable(str(results))}: {stored} stored", soft_wrap=True)
    print_owners(console, states)
    print_running(console, [owner for owner, state in states if state != DEAD])
    print_checkpoints(console, CheckpointFolder(results))
    for path, why in damaged.items():
        line = f"{printable(str(path))} cannot be read: {printable(why)}"
        console.print(line, style="red", soft_wrap=True)
    if not states and not damaged:
        console.print("nothing runs here")
    return FAILED if damaged or any(state != RUNNING for _, state in states) else 0


def count(trials: Path) -> int:
    """How many trials are stored, without a look into their files."""
    return sum(name.endswith(".json") for name in os.listdir(trials)) if os.path.isdir(trials) else 0


def watch(folder: Path) -> "tuple[list[tuple[Owner, str]], dict[Path, str]]":
    """All owners with their states, and the files that cannot be read; as soon as each has written its file again."""
    from pai_bench.results import owners

    end = time.monotonic() + WATCH
    now, damaged = owners.read_all(folder)
    before = {owner.id: owner.beat for owner in now if not has_ended(owner)}
    while any(owner.beat == before.get(owner.id) for owner in now) and time.monotonic() < end:
        time.sleep(LOOK)
        now, damaged = owners.read_all(folder)
    silent = {owner.id for owner in now if owner.beat == before.get(owner.id)}
    return [(owner, state_of(owner, folder, silent=owner.id in silent)) for owner in now], damaged


def state_of(owner: "Owner", folder: Path, *, silent: bool) -> str:
    """Whether an owner runs, in words."""
    from pai_bench.results import owners

    if has_ended(owner):
        return DEAD
    seconds = WATCH
    with suppress(OSError):
        seconds = max(seconds, time.time() - owners.path_of(folder, owner.id).stat().st_mtime)
    return f"no sign of life for {timedelta(seconds=round(seconds))}" if silent else RUNNING


def print_owners(console: "Console", states: "list[tuple[Owner, str]]") -> None:
    """A table of the processes."""
    rows = [["process", "command", "state", "trials done", "for"]]
    for owner, state in states:
        command = owner.command or ""
        command = command if len(command) <= LONGEST_COMMAND else f"{command[: LONGEST_COMMAND - 3]}..."
        done = f"{owner.done:,} of {owner.total:,}" if owner.total else ""
        rows.append([*map(printable, (str(owner), command)), state, done, duration(owner.since, owner.written)])
    if states:
        print_table(console, rows, numbers=slice(3, None), failed=lambda row: row[2] != RUNNING)


def print_running(console: "Console", found: "list[Owner]") -> None:
    """A table of the trials that they run."""
    rows = [["trial", "epoch", "process", "for"]]
    for owner in found:
        for trial in owner.running:
            epoch = f"{trial.epoch:,} of {trial.epochs:,}" if trial.epochs else ""
            shown = printable(trial.identity), epoch, printable(str(owner)), duration(trial.since, owner.written)
            rows.append([*shown])
    if len(rows) > 1:
        print_table(console, rows, numbers=slice(1, 2))


def print_checkpoints(console: "Console", checkpoints: "Iterable[Checkpoint]") -> None:
    """A table of the trials that resume from a checkpoint if their process ends."""
    rows = [["checkpoint", "step"]]
    for checkpoint in checkpoints:
        more = len(checkpoint.trials) - 1
        beside = f" and {more:,} beside it" if more else ""
        step = f"{checkpoint.step:,} of {checkpoint.steps:,}"
        rows.append([printable(checkpoint.trials[0]) + beside, step])
    if len(rows) > 1:
        print_table(console, rows, numbers=slice(1, 2))


def duration(since: str, until: str) -> str:
    """The time between two of one clock, as hours, minutes and seconds; empty if they are none."""
    with suppress(ValueError, TypeError, OverflowError):
        seconds = (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()
        return str(timedelta(seconds=max(0, round(seconds))))
    return ""
