"""Whether the records that a sweep will write have room where they are stored."""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pai_bench.execution.estimate import disk_bytes
from pai_bench.execution.execution_plan import Kind, kind_of
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.support.errors import UserError


def record_bytes(runner: Runner, missing: Sequence[Trial]) -> int:
    """Bytes of the records of the `missing` trials, as far as they can be estimated."""
    by_kind, total = defaultdict[Kind, list[Trial]](list), 0
    for trial in missing:
        by_kind[kind_of(trial)].append(trial)
    for trials in by_kind.values():
        with suppress(Exception):  # the trials themselves will fail, and say why
            total += disk_bytes(runner, trials[0], len(trials), trials)
    return total


def check_free_space(needed: Iterable[tuple[Path, int]]) -> None:
    """Raise UserError if a file system has no room for all that is needed in its folders, given in bytes."""
    totals, folders = defaultdict[int, int](int), defaultdict[int, dict[Path, None]](dict)
    for folder, size in needed:
        with suppress(OSError):  # writing there will say what is wrong
            device = os.stat(folder).st_dev
            totals[device] += size
            folders[device][folder] = None
    for device, total in totals.items():
        with suppress(OSError):
            if total > (free := shutil.disk_usage(next(iter(folders[device]))).free):
                where = " and ".join(map(str, folders[device]))
                need = f"the results need about {text_of(total)} in {where}, where {text_of(free)} are free"
                raise UserError(f"{need}; make room, or give another folder with --out")


def text_of(size: int) -> str:
    """A number of bytes as text."""
    power = min(3, max(1, (size.bit_length() - 1) // 10))
    return f"{size / 2 ** (10 * power):,.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"
