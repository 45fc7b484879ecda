"""The results of several folders in one, such as those of several machines."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pai_bench.results import archive
from pai_bench.results.folder import Store, read
from pai_bench.results.records import Record
from pai_bench.results.stored import LONGEST
from pai_bench.results.verification import TYPES
from pai_bench.support import infile
from pai_bench.support.errors import UserError


def merge(
    sources: Sequence[Store], target: Path, on_file: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, int]:
    """Copy the results of all `sources`, with their masks, into the folder `target`; how many of each kind are new.

    Results that are already there stay. If two folders hold different results of one name, nothing is written, and a
    UserError names them: a trial that was run twice has other times, and nobody can say which is meant. Damaged files
    are left out, and named in `Store.left_out` of their source.
    """
    if target.name.endswith(archive.SUFFIX):
        raise UserError(f"merge makes a folder, not a file of records: {target}")
    stores = [*([Store(target)] if archive.has_results(target) else []), *sources]
    chosen: dict[tuple[str, str], tuple[Store, Path]] = {}
    differing: list[tuple[str, Store, Store]] = []
    for store in stores:
        for result_type in TYPES:
            for path in sorted((store.path / result_type.folder).glob("*.json")):
                key = result_type.folder, path.name
                try:
                    read(result_type, path)
                    first = chosen.setdefault(key, (store, path))
                    if infile.read(first[1], LONGEST) != infile.read(path, LONGEST):
                        differing.append(("/".join(key), first[0], store))
                except (ValueError, OSError) as error:
                    store.left_out["/".join(key)] = str(error)
    if differing:
        name, former, latter = differing[0]
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise UserError(
            f"{name}{more} differ in {former.label} and {latter.label}, and nothing was written: remove those that you "
            "do not want, or merge folders of different trials"
        )
    return copied(chosen, target, on_file)


def copied(
    chosen: dict[tuple[str, str], tuple[Store, Path]], target: Path, on_file: Callable[[int, int], None]
) -> dict[str, int]:
    """Write what was chosen into the folder `target`, each mask before its record."""
    new = Store(target, create=True)
    counts: dict[str, int] = {}
    for number, ((folder, name), (store, path)) in enumerate(chosen.items(), 1):
        if store.path != new.path:
            if folder == Record.folder and (mask := store.mask_of(path.stem)).is_file():
                new.copy(mask, new.mask_of(path.stem))
            new.copy(path, new.path / folder / name)
            counts[folder] = counts.get(folder, 0) + 1
        on_file(number, len(chosen))
    return counts
