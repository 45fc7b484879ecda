"""What killed processes leave among the claims of a results folder: which files these are, and how they are removed."""

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pai_bench.results import claim_files, owners
from pai_bench.support import outfile
from pai_bench.support.process_identity import has_ended

CLAIM = "a claim of a process that has ended"


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """Files that no process needs any more."""

    files: dict[Path, str] = field(default_factory=dict)
    """With the reasons; but for claims."""
    rows: dict[str, list[str]] = field(default_factory=dict)
    """Trial -> the owners of its claims, all of which are void."""

    def reasons(self, folder: Path) -> dict[Path, str]:
        """All files with the reasons, claims among them."""
        return self.files | dict.fromkeys((path for name in self.rows for path in self.claims(folder, name)), CLAIM)

    def claims(self, folder: Path, identity: str) -> list[Path]:
        """The claims of a trial."""
        return [claim_files.path_of(folder, identity, generation) for generation in range(len(self.rows[identity]))]


def find_leftovers(folder: Path, stored: Callable[[str], bool], now: float) -> Leftovers:
    """What is left of processes that have ended, as this machine knows, or have written nothing for an hour.

    A claim by a process without a file is left if its trial is `stored`. OSError if the folder cannot be read.
    """
    found, claimed, ended, known = Leftovers(), dict[str, Path](), set[str](), set[str]()
    for path in sorted(folder / name for name in os.listdir(folder)) if os.path.lexists(folder) else []:
        if path.name.endswith(owners.SUFFIX):
            known.add(owner := path.name.removesuffix(owners.SUFFIX))
            if is_of_ended(path, now):
                ended.add(owner)
                found.files[path] = "the file of a process that has ended"
        elif path.name.startswith(".") and path.suffix == ".tmp" and is_old(path, now):
            found.files[path] = "a temporary file of a killed process"
        elif (identity := claim_files.identity_in(path.name)) is not None:
            claimed[identity] = path
    for identity, path in claimed.items():
        row = claim_files.row(folder, identity)
        newest = row[-1] if row else claim_files.owner_in(path)
        path = claim_files.path_of(folder, identity, len(row) - 1) if row else path
        # an owner that was not there when the folder was listed may be by now
        is_known = newest in known or bool(newest and os.path.lexists(owners.path_of(folder, newest)))
        if newest in ended or (not is_known and (stored(identity) or is_old(path, now))):
            found.rows.update({identity: row} if row else {})
            found.files.update({} if row else {path: CLAIM})
    return found


def remove_leftovers(folder: Path, stored: Callable[[str], bool]) -> set[Path]:
    """Remove what `find_leftovers` finds, as far as that can be done; which files these were."""
    removed, name = set[Path](), secrets.token_hex(8)
    with suppress(OSError):
        found = find_leftovers(folder, stored, outfile.time_of(folder))
        for identity, row in found.rows.items():
            # not just removed: another process may have taken the claim over, and run the trial
            if claim_files.take(folder, identity, row, name):
                claim_files.remove(folder, identity, len(row) + 1)
                removed.update(found.claims(folder, identity))
        for path in found.files:
            path.unlink(missing_ok=True)
            removed.add(path)
    return removed


def is_of_ended(path: Path, now: float) -> bool:
    """Whether the file of an owner is of a process that is known to have ended, or that has long written nothing."""
    if is_old(path, now):
        return True
    with suppress(OSError, ValueError):
        return has_ended(owners.read(path))
    return False


def is_old(path: Path, now: float) -> bool:
    """Whether a file was written more than an hour ago."""
    with suppress(OSError):
        return now - path.lstat().st_mtime > outfile.ABANDONED
    return False
