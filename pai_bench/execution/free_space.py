"""Whether the records and checkpoints that a sweep will write have room where they are stored."""

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from pai_bench.execution.estimate import disk_bytes, weight_sizes
from pai_bench.execution.execution_plan import ExecutionPlan, Kind, kind_of, kinds
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.support.errors import UserError
from pai_bench.training.protocol import Protocol


def record_bytes(runner: Runner, missing: Sequence[Trial]) -> int:
    """Bytes of the records of the `missing` trials, as far as they can be estimated."""
    by_kind, total = defaultdict[Kind, list[Trial]](list), 0
    for trial in missing:
        by_kind[kind_of(trial)].append(trial)
    for trials in by_kind.values():
        with suppress(Exception):  # the trials themselves will fail, and say why
            total += disk_bytes(runner, trials[0], len(trials), trials)
    return total


def checkpoint_bytes(runner: Runner, missing: Sequence[Trial], plan: ExecutionPlan) -> int:
    """Bytes of a checkpoint of the largest networks for each worker, and of the one that replaces it."""
    sizes = [0]
    for trial, _ in kinds(missing).values() if runner.catalog.sweep.checkpoint_seconds is not None else ():
        with suppress(Exception):
            sizes.append(plan.lanes(trial) * state_bytes(sum(weight_sizes(runner, trial)), trial.protocol))
    return 2 * plan.workers * max(sizes)


def state_bytes(weights: int, protocol: Protocol) -> int:
    """Bytes of so many weights in a checkpoint, with the memory of the optimiser and the mask; 0 without training."""
    memory = 2 if protocol.optimizer == "adam" else int(protocol.momentum > 0)
    return weights * (4 * (1 + memory) + 1) if protocol.steps(protocol.batch_size) else 0


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
                need = f"results and checkpoints need about {text_of(total)} in {where}, where {text_of(free)} are free"
                raise UserError(f"{need}; make room, or give another folder with --out")


def text_of(size: int) -> str:
    """A number of bytes as text."""
    power = min(3, max(1, (size.bit_length() - 1) // 10))
    return f"{size / 2 ** (10 * power):,.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"
