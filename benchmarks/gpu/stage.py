"""A stage, in a process of its own: its pieces one by one, each result written as soon as it is there.

``python -m benchmarks.gpu.stage MODULE --archive FILE --until SECONDS ...``, started by `benchmarks.gpu.runner`.
"""

import argparse
import importlib
import json
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.archive import Archive
from benchmarks.gpu.ledger import NO_TIME, Entry, Ledger

if TYPE_CHECKING:
    import torch

    from pai_bench.results.measurements import Value

POISONED = 70
"""The exit code of a process whose device answers no more: another process can go on."""

NEEDS_CUDA = "needs CUDA"


class SkippedError(Exception):
    """What is asked for cannot be done here, which is no failure."""


class OutOfTimeError(Exception):
    """A piece has seen that its time will not do."""


@dataclass(frozen=True)
class Finding:
    """What a piece has found: `values`, the most that some of them may be, and what has failed beside them."""

    values: "Mapping[str, Value]" = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    bar: str | None = None
    failed: str | None = None

    @property
    def problem(self) -> str | None:
        """What is wrong, in a line; a value that is not there or no number is above every limit."""
        above = [(key, self.values.get(key), limit) for key, limit in self.limits.items()]
        bad = [
            f"{key} is {value:.4g}, above {limit:.4g}" if isinstance(value, (int, float)) else f"{key} is {value}"
            for key, value, limit in above
            if not (isinstance(value, (int, float)) and value <= limit)
        ]
        return "; ".join([*([self.failed] if self.failed else []), *bad]) or None


@dataclass(frozen=True)
class Piece:
    """One thing that a stage checks or measures. `needs`: seconds below which it is not begun.

    `run` may return None where it keeps records of its own by `Context.keep`.
    """

    group: str
    name: str
    run: Callable[[], Finding | None]
    needs: float = 1.0
    cuda: bool = False
    version: int = 1

    @property
    def entry(self) -> Entry:
        """The piece as it stands in the ledger before it is tried."""
        return Entry(self.group, self.name, self.version, self.needs)


@dataclass
class Context:
    """What a stage is given."""

    stage: str
    device: "torch.device"
    rehearse: bool
    until: float
    ledger: Ledger
    provenance: dict[str, Any]
    run: str = ""

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def time_left(self) -> float:
        """Seconds until the stage has to end."""
        return self.until - time.monotonic()

    def need(self, seconds: float) -> None:
        """End the piece that is running if less time than this is left."""
        if self.time_left() < seconds:
            raise OutOfTimeError

    def keep(self, name: str, text: str) -> None:
        """Write a record into the archive."""
        self.ledger.archive.add({name: text})


def work(context: Context, pieces: Sequence[Piece]) -> None:
    """Do what is missing of `pieces`; those that have ended a process come last."""
    from pai_bench.support.environment import describe

    environment = describe(context.device)
    machine = f"{environment['device']}, torch {environment['versions']['torch']}"
    context.ledger.plan([piece.entry for piece in pieces], machine)
    for piece in sorted(pieces, key=lambda piece: context.ledger.entries[piece.entry.key].fatal):
        entry = context.ledger.entries[piece.entry.key]
        tried = entry.run == context.run and entry.status not in ("missing", "running")
        if entry.status not in ("passed", "measured") and not tried:
            attempt(context, piece)


def attempt(context: Context, piece: Piece) -> None:
    """Do one piece, and write what became of it."""
    ledger, key = context.ledger, piece.entry.key
    if piece.cuda and not context.cuda:
        finish(context, piece, "skipped", NEEDS_CUDA, Finding(), 0.0)
        return
    if context.time_left() < piece.needs:
        ledger.set(key, status="missing", reason=NO_TIME)
        return
    start = time.monotonic()
    ledger.set(key, status="running", reason=None, run=context.run, since=start, fatal=False)
    try:
        finding = piece.run()
    except OutOfTimeError:
        ledger.set(key, status="missing", reason=NO_TIME)
    except SkippedError as why:
        finish(context, piece, "skipped", str(why), Finding(), time.monotonic() - start)
    except Exception as error:
        traceback.print_exc()
        finish(context, piece, "failed", one_line(error), Finding(), time.monotonic() - start)
        leave_if_poisoned(context)
    else:
        seconds, problem = time.monotonic() - start, None if finding is None else finding.problem
        good = "passed" if finding and finding.limits else "measured"
        finish(context, piece, "failed" if problem else good, problem, finding, seconds)


def finish(
    context: Context, piece: Piece, status: str, reason: str | None, finding: Finding | None, seconds: float
) -> None:
    """Write a piece's end, and say it."""
    name, text = record(context, piece, status, reason, finding or Finding(), seconds)
    texts = {} if finding is None else {name: text}  # without one, an earlier failure is no more
    changes = {"status": status, "reason": reason, "seconds": round(seconds, 3), "run": context.run}
    context.ledger.set(piece.entry.key, texts, without=name, **changes)
    left = f"{context.time_left():4.0f} s left"
    print(f"[{context.stage}, {left}] {status:8} {piece.entry.title} ({seconds:.2f} s)", flush=True)
    if reason:
        print(f"    {reason}", flush=True)


def record(
    context: Context, piece: Piece, status: str, reason: str | None, finding: Finding, seconds: float
) -> tuple[str, str]:
    """Name and text of a piece's file in the archive."""
    from pai_bench.results import BenchmarkResult, Environment, Provenance
    from pai_bench.support.environment import describe

    result = BenchmarkResult(
        stage=context.stage,
        group=piece.group,
        name=piece.name,
        version=piece.version,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        values={key: plain(value) for key, value in finding.values.items()},
        limits=finding.limits,
        bar=finding.bar,
        seconds=seconds,
        device=context.device.type,
        environment=Environment(**describe(context.device)),
        provenance=Provenance(**context.provenance),
    )
    return f"benchmarks/{result.identity}.json", result.to_json()


def plain(value: "Value") -> "Value":
    """A value that JSON can hold."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def one_line(error: BaseException) -> str:
    """An error in one line, without paths of the machine."""
    from pai_bench.support.environment import without_paths

    return without_paths(" ".join(f"{type(error).__name__}: {error}".split()))[:500]


def leave_if_poisoned(context: Context) -> None:
    """End the process if its device answers no more, as after an illegal access."""
    import torch

    if context.cuda:
        try:
            torch.cuda.synchronize(context.device)
        except Exception as error:
            print(f"the device answers no more: {one_line(error)}", flush=True)
            sys.stdout.flush()
            os._exit(POISONED)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, which the runner writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True, help="on the clock time.monotonic")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--run", default="")
    parser.add_argument("--provenance", type=json.loads, default={})
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Do a stage; 1 if it could not begin."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    given = parse(arguments)
    ledger = Ledger(Archive(given.archive))
    try:
        from pai_bench.support.environment import select_device

        module = importlib.import_module(given.module)
        stage = given.archive.stem
        device = select_device(given.device)
        context = Context(stage, device, given.rehearse, given.until, ledger, given.provenance, given.run)
        pieces = list(module.pieces(context))
        work(context, pieces)
    except Exception as error:  # whatever is not installed here, it costs this stage alone
        traceback.print_exc()
        ledger.error = " ".join(f"{type(error).__name__}: {error}".split())
        ledger.write()
        return 1
    return 0


if __name__ == "__main__":
    from benchmarks.gpu import stage  # the module that the stages' own imports see, not this one called __main__

    sys.exit(stage.main(sys.argv[1:]))
