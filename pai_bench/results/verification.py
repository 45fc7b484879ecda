"""Whether a results folder is whole: every file is read, and what does not belong there is named."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pai_bench.results.bits import SAMPLE_SIZE
from pai_bench.results.collapses import Collapse
from pai_bench.results.folder import Store, free_name
from pai_bench.results.measurements import BenchmarkResult, Cost, TrialMetrics
from pai_bench.results.records import Record
from pai_bench.results.stored import CHECKSUM, LONGEST, NewerSchemaError, Stored, json_object
from pai_bench.results.stored_masks import size_of, stored_bits
from pai_bench.support import infile, outfile
from pai_bench.support.errors import UserError, reason

TYPES: tuple[type[Stored], ...] = (Record, TrialMetrics, Cost, Collapse, BenchmarkResult)
"""What a results folder holds."""

MASK = ".mask.safetensors"

Cure = Literal["set aside", "remove", "none"]


@dataclass(frozen=True)
class Problem:
    """A file that is damaged, or that does not belong where it is."""

    path: Path
    why: str
    cure: Cure = "set aside"
    """What `repair` does with it; a file that is only not readable now is left where it is."""


@dataclass
class Verification:
    """What was found in a results folder."""

    whole: Counter[str] = field(default_factory=Counter)
    """Files that are as they should be, by folder; ``masks`` are those beside the records."""
    without_checksum: int = 0
    """Of these, how many earlier versions have written, which gave none: only their settings are known to be right."""
    set_aside: int = 0
    """Damaged files that were set aside before."""
    others: list[Path] = field(default_factory=list)
    """Files that no result is in, and that nothing reads."""
    problems: list[Problem] = field(default_factory=list)


def files(store: Store) -> list[Path]:
    """All files of a results folder that can belong to it, those of trials first."""
    found: list[Path] = []
    for result_type in TYPES:
        folder = store.path / result_type.folder
        try:
            found += sorted(folder / entry.name for entry in os.scandir(folder)) if os.path.isdir(folder) else []
        except OSError as error:
            raise UserError(f"{folder} cannot be read ({reason(error)})") from error
    return found


def verify(store: Store, on_file: Callable[[int, int], None] = lambda done, total: None) -> Verification:
    """Read every file of a results folder: whether it can be read, has its hash and checksum, and fits its mask.

    `on_file` is told how many files are done, and of how many.
    """
    found, paths = Verification(), files(store)
    found.problems += [Problem(store.path / name, why, "none") for name, why in store.left_out.items()]
    trials = {path.name for path in paths if path.parent == store.trials}
    for number, path in enumerate(paths, 1):
        found.problems += look_at(path, store, trials, found)
        on_file(number, len(paths))
    return found


def look_at(path: Path, store: Store, trials: set[str], found: Verification) -> Iterator[Problem]:
    """What is wrong with a file; otherwise, it is counted."""
    result_type = next(one for one in TYPES if one.folder == path.parent.name)
    if path.name.endswith(".tmp") and path.name.startswith("."):
        if time.time() - path.stat().st_mtime > outfile.ABANDONED:  # others may be written just now
            yield Problem(path, "a temporary file of a killed process", "remove")
    elif ".damaged" in path.suffix:
        found.set_aside += 1
    elif path.name.endswith(MASK) and result_type is Record:
        if f"{path.name.removesuffix(MASK)}.json" not in trials:
            yield Problem(path, "the mask of no trial here")
    elif path.suffix != ".json":
        found.others.append(path)
    else:
        yield from look_at_result(path, result_type, store, trials, found)


def look_at_result(
    path: Path, result_type: type[Stored], store: Store, trials: set[str], found: Verification
) -> Iterator[Problem]:
    """What is wrong with the file of a result, or with the mask beside it."""
    try:
        text = infile.read(path, LONGEST)
        result = result_type.from_json(text)
        result.check_name(path.stem)
    except NewerSchemaError as error:
        yield Problem(path, str(error), "none")
    except ValueError as error:
        yield Problem(path, str(error))
    except OSError as error:
        yield Problem(path, f"cannot be read ({reason(error)})", "none")
    else:
        if isinstance(result, TrialMetrics) and path.name not in trials:
            yield Problem(path, "the evaluation of no trial here")
            return
        found.whole[result_type.folder] += 1
        found.without_checksum += CHECKSUM not in json_object(text)
        if isinstance(result, Record):
            yield from look_at_mask(result, store, trials, found)


def look_at_mask(record: Record, store: Store, trials: set[str], found: Verification) -> Iterator[Problem]:
    """What is wrong with the mask in a record, or in the file beside it."""
    path = store.mask_of(record.identity)
    beside = path.name in trials
    if beside and size_of(record) <= SAMPLE_SIZE:
        yield Problem(path, "its trial has the whole mask in its record")
    elif record.pruning.mask is not None:
        try:
            whole = stored_bits(record, store if beside else None)
            if whole is not None and any(int(whole[one.name].sum()) != one.kept for one in record.pruning.layers):
                raise ValueError("it keeps other numbers of connections than the record says")
            found.whole.update(["masks"] if beside else [])
        except ValueError as error:
            yield Problem(path if beside else store.path_of(Record, record.identity), f"its mask is damaged ({error})")
        except OSError as error:
            yield Problem(path, f"cannot be read ({reason(error)})", "none")


def repair(problems: list[Problem]) -> tuple[dict[Path, Path | None], list[Problem]]:
    """Set damaged files aside, under names that nothing reads, and remove temporary ones; what became of each.

    Trials whose record is set aside run again. Also returns the problems that are left.
    """
    done: dict[Path, Path | None] = {}
    left: list[Problem] = []
    for problem in problems:
        try:
            if problem.cure == "remove":
                problem.path.unlink(missing_ok=True)
                done[problem.path] = None
            elif problem.cure == "set aside":
                aside = free_name(problem.path)
                problem.path.replace(aside)
                done[problem.path] = aside
            else:
                left.append(problem)
        except OSError as error:
            left.append(Problem(problem.path, f"{problem.why}, and cannot be set aside ({reason(error)})", "none"))
    return done, left
