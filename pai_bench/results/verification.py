"""Whether a results folder is whole: every file is read, and what does not belong there is named.

Other processes may write to the folder meanwhile: what they have not finished is no problem, and what is repaired is
looked at again just before.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from pai_bench.results import checkpoints, claims
from pai_bench.results.bits import SAMPLE_SIZE, unpack
from pai_bench.results.checkpoints import CheckpointFolder
from pai_bench.results.collapses import Collapse
from pai_bench.results.folder import CHECKPOINTS, Store, free_name
from pai_bench.results.leftovers import find_leftovers, remove_leftovers
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


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file that is damaged, or that does not belong where it is."""

    path: Path
    why: str
    cure: Cure = "set aside"
    """What `repair` does with it; what only another version or user can read is left where it is."""


@dataclass(kw_only=True)
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
    now: float = field(default_factory=time.time)
    """By which the age of files is told."""


def files(store: Store) -> list[Path]:
    """All files in the folders of results, those of trials first."""
    found: list[Path] = []
    for name in (*(result_type.folder for result_type in TYPES), CHECKPOINTS):
        folder = store.path / name
        try:
            found += sorted(folder / entry.name for entry in os.scandir(folder)) if os.path.lexists(folder) else []
        except OSError as error:
            raise UserError(f"{store.label / name} cannot be read ({reason(error)})") from error
    return found


def verify(store: Store, on_file: Callable[[int, int], None] = lambda done, total: None) -> Verification:
    """Read every file of a results folder: whether it can be read, has its hash and checksum, and fits its mask.

    `on_file` is told how many files are done, and of how many.
    """
    found, paths = Verification(), files(store)
    found.problems += [Problem(path=store.path / name, why=why, cure="none") for name, why in store.left_out.items()]
    for number, path in enumerate(paths, 1):
        with suppress(FileNotFoundError):  # another process has removed it, or given it its name
            found.problems += look_at(path, store, found)
        on_file(number, len(paths))
    found.problems += look_at_claims(store)
    return found


def look_at_claims(store: Store) -> Iterator[Problem]:
    """What killed processes have left among the claims."""
    folder = store.path / claims.FOLDER
    try:
        reasons = find_leftovers(folder, store.holds, time.time()).reasons(folder)
    except OSError as error:
        raise UserError(f"{store.label / claims.FOLDER} cannot be read ({reason(error)})") from error
    yield from (Problem(path=path, why=why, cure="remove") for path, why in reasons.items())


def look_at(path: Path, store: Store, found: Verification) -> Iterator[Problem]:
    """What is wrong with a file; otherwise, it is counted. FileNotFoundError if it is gone."""
    result_type = next((one for one in TYPES if one.folder == path.parent.name), None)
    if path.name.endswith(".tmp") and path.name.startswith("."):
        if is_old(path, found):
            yield Problem(path=path, why="a temporary file of a killed process", cure="remove")
    elif ".damaged" in path.suffix:
        found.set_aside += 1
    elif path.name.endswith(MASK) and result_type is Record:
        if not store.holds(path.name.removesuffix(MASK)) and is_old(path, found):
            yield Problem(path=path, why="the mask of no trial here")
    elif result_type is None and path.suffix == checkpoints.SUFFIX:
        yield from look_at_checkpoint(path, store, found)
    elif result_type is None or path.suffix != ".json":
        found.others.append(path)
    else:
        yield from look_at_result(path, result_type, store, found)


def look_at_checkpoint(path: Path, store: Store, found: Verification) -> Iterator[Problem]:
    """What is wrong with a checkpoint."""
    try:
        trials = checkpoints.check(infile.read(path, path.stat().st_size))["trials"]
        if path != CheckpointFolder(store.path).path_of(trials):
            raise ValueError("its trials are not those that the file is named by")
    except checkpoints.DAMAGED as error:
        yield Problem(path=path, why=f"a damaged checkpoint ({error})")
    except OSError as error:
        if not os.path.lexists(path):
            raise
        yield Problem(path=path, why=f"cannot be read ({reason(error)})", cure="none")
    else:
        if all(map(store.holds, trials)) and is_old(path, found):
            yield Problem(path=path, why="a checkpoint of trials that are stored", cure="remove")
        else:
            found.whole[CHECKPOINTS] += 1


def is_old(path: Path, found: Verification) -> bool:
    """Whether no process can be about to write what belongs to a file."""
    return found.now - path.lstat().st_mtime > outfile.ABANDONED


def look_at_result(path: Path, result_type: type[Stored], store: Store, found: Verification) -> Iterator[Problem]:
    """What is wrong with the file of a result, or with the mask beside it."""
    try:
        text = infile.read(path, LONGEST)
        result = result_type.from_json(text)
        result.check_name(path.stem)
    except NewerSchemaError as error:
        yield Problem(path=path, why=str(error), cure="none")
    except ValueError as error:
        yield Problem(path=path, why=str(error))
    except OSError as error:
        if not os.path.lexists(path):
            raise
        yield Problem(path=path, why=f"cannot be read ({reason(error)})", cure="none")
    else:
        if isinstance(result, TrialMetrics) and not store.holds(result.identity):
            if is_old(path, found):
                yield Problem(path=path, why="the evaluation of no trial here")
            return
        found.whole[result_type.folder] += 1
        found.without_checksum += CHECKSUM not in json_object(text)
        if isinstance(result, Record):
            yield from look_at_mask(result, store, found)


def look_at_mask(record: Record, store: Store, found: Verification) -> Iterator[Problem]:
    """What is wrong with the mask in a record, or in the file beside it."""
    path = store.mask_of(record.identity)
    beside, whole = os.path.lexists(path), size_of(record) <= SAMPLE_SIZE
    if beside and (whole or record.pruning.mask is None):
        why = "has no mask" if record.pruning.mask is None else "has the whole mask in its record"
        yield Problem(path=path, why=f"its trial {why}")
    if record.pruning.mask is None or not (whole or beside):
        return
    try:
        check_mask(record, store)
        found.whole.update(["masks"] if beside and not whole else [])
    except (ValueError, MemoryError) as error:
        yield Problem(
            path=store.path_of(Record, record.identity) if whole else path, why=f"its mask is damaged ({error})"
        )
    except OSError as error:
        yield Problem(path=path, why=f"cannot be read ({reason(error)})", cure="none")


def check_mask(record: Record, store: Store) -> None:
    """Raise ValueError if the mask of a record keeps other numbers of connections than it says, or is damaged."""
    layers = record.pruning.layers
    if size_of(record) <= SAMPLE_SIZE:  # whatever shapes it has, which some records do not say
        bits = unpack(record.pruning.mask or "", size_of(record))
        kept = [int(part.sum()) for part in np.split(bits, np.cumsum([layer.size for layer in layers])[:-1])]
    else:
        whole = stored_bits(record, store) or {}
        kept = [int(whole[layer.name].sum()) for layer in layers if layer.name in whole]
    if kept != [layer.kept for layer in layers]:
        raise ValueError("it keeps other numbers of connections than the record says")


def repair(store: Store, problems: Sequence[Problem]) -> dict[Path, Path | None]:
    """Set damaged files aside, under names that nothing reads, and remove temporary ones; what became of each.

    Trials whose record is set aside run again. Each file is looked at again before, and what cannot be moved stays.
    """
    folder = store.path / claims.FOLDER
    paths = dict.fromkeys(problem.path for problem in problems if problem.cure != "none")
    removed = remove_leftovers(folder, store.holds)
    done: dict[Path, Path | None] = dict.fromkeys(path for path in paths if path in removed)
    now = time.time()
    with suppress(OSError):  # the clock of the folder's file system, since that of this machine may differ
        now = outfile.time_of(store.path)
    for path in (path for path in paths if path.parent != folder):
        with suppress(OSError):
            again = [one for one in found_again(path, store, now) if one.path == path]
            if any(problem.cure == "remove" for problem in again):
                path.unlink()
                done[path] = None
            elif any(problem.cure == "set aside" for problem in again):
                done[path] = path.replace(free_name(path))
    return done


def found_again(path: Path, store: Store, now: float) -> list[Problem]:
    """What is wrong now with a file, or with the mask beside the record."""
    name = path.name.removesuffix(MASK)
    places = [path, store.path_of(Record, name)] if path.name.endswith(MASK) else [path]
    return [
        problem
        for place in places
        if os.path.lexists(place)
        for problem in look_at(place, store, Verification(now=now))
    ]
