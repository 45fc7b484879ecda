"""The results of several folders in one, such as those of several machines."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pai_bench.results import archive
from pai_bench.results.folder import Store, read
from pai_bench.results.measurements import TrialMetrics
from pai_bench.results.records import Record
from pai_bench.results.stored import Stored
from pai_bench.results.verification import TYPES, check_mask, files
from pai_bench.support.errors import UserError

Key = tuple[type[Stored], str]
"""A result: its type, and its identity."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a result is stored."""

    store: Store
    path: Path

    def __str__(self) -> str:
        return f"{self.store.label / self.path.parent.name / self.path.name}"


def merge(
    sources: Sequence[Store], target: Path, on_file: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, int]:
    """Copy the results of all `sources`, with their masks, into the folder `target`; how many of each kind are new.

    Results that are already there stay. If two folders hold different results of one name, or the target one that
    cannot be read, nothing is written, and a UserError names them: a trial that was run twice has other times, and
    nobody can say which is meant. Damaged files of the sources are left out, and named in their `Store.left_out`. An
    evaluation goes with the record of its trial.
    """
    there = check_target(target)
    chosen: dict[Key, Place] = {}
    masks: dict[str, Place] = {}
    for store in [*there, *sorted(sources, key=lambda store: store.archived)]:  # files of records hold no masks
        for key, place in results(store):
            try:
                result = read(key[0], place.path)
                if key[0] is TrialMetrics and not belongs(key[1], store, chosen):
                    raise ValueError("its trial is not merged from this folder")
            except (ValueError, OSError) as error:
                if store in there:
                    raise UserError(f"{place} cannot be read ({error}), and nothing was written") from error
                store.left_out[f"{key[0].folder}/{place.path.name}"] = str(error)
                continue
            check_same(result, place, chosen.setdefault(key, place))
            if key[0] is Record and key[1] not in masks and has_mask(result, place):
                masks[key[1]] = Place(store=store, path=store.mask_of(key[1]))
    return copied(chosen, masks, Store(target, create=True), on_file)


def check_target(target: Path) -> list[Store]:
    """The folder that results go to, if it holds some; UserError if none can be put there."""
    if target.name.endswith(archive.SUFFIX):
        raise UserError(f"merge makes a folder, not a file of records: {target}")
    if archive.has_results(target):
        return [Store(target)]
    if archive.is_archive(target):
        what = "holds a file of records, which would not be read beside results"
        raise UserError(f"{target} {what}: name another folder")
    return []


def results(store: Store) -> Iterator[tuple[Key, Place]]:
    """All results of a folder, those of trials before their evaluations."""
    types = {result_type.folder: result_type for result_type in TYPES}
    for path in files(store):
        if path.suffix == ".json":
            yield (types[path.parent.name], path.stem), Place(store=store, path=path)


def belongs(identity: str, store: Store, chosen: dict[Key, Place]) -> bool:
    """Whether a folder's evaluation is of the trial that was chosen."""
    path, place = store.path_of(Record, identity), chosen.get((Record, identity))
    if place is None or f"{Record.folder}/{path.name}" in store.left_out or not path.exists():
        return False
    return bool(comparable(read(Record, path)) == comparable(read(Record, place.path)))


def comparable(result: Stored) -> Any:
    """A result without its mask, which files of records leave out."""
    return replace(result, pruning=replace(result.pruning, mask=None)) if isinstance(result, Record) else result


def check_same(result: Stored, place: Place, first: Place) -> None:
    """Raise UserError if a result differs from the `first` of that name."""
    if place != first and comparable(result) != comparable(read(type(result), first.path)):
        raise UserError(
            f"{place} differs from {first}, and nothing was written: remove the one that you do not want, or merge "
            "folders of different trials"
        )


def has_mask(record: Any, place: Place) -> bool:
    """Whether the whole mask of a trial lies beside its record; a damaged one is named, and left out."""
    if not os.path.lexists(place.store.mask_of(record.identity)):
        return False
    try:
        check_mask(record, place.store)
    except (ValueError, OSError, MemoryError) as error:
        name = place.store.mask_of(record.identity).name
        place.store.left_out[f"{Record.folder}/{name}"] = f"its mask is damaged ({error})"
        return False
    return True


def copied(
    chosen: dict[Key, Place], masks: dict[str, Place], target: Store, on_file: Callable[[int, int], None]
) -> dict[str, int]:
    """Write what was chosen into the folder `target`, each mask before its record; what is there stays."""
    counts: defaultdict[str, int] = defaultdict(int)
    for number, ((result_type, name), place) in enumerate(chosen.items(), 1):
        if result_type is Record and name in masks and not os.path.lexists(target.mask_of(name)):
            target.copy(masks[name].path, target.mask_of(name))
        if not os.path.lexists(path := target.path_of(result_type, name)):
            target.copy(place.path, path)
            counts[result_type.folder] += 1
        on_file(number, len(chosen))
    return dict(counts)
