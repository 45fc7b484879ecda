"""Claims as files of a folder, ``IDENTITY.GENERATION``, each with the name of the process that made it: its owner.

The generations of a trial are numbered from 0 without a gap, and the last one is the claim. So it is found without
listing the folder, and there is only one. To take a claim over, a process creates the next generation, exclusively. To
release its own, it removes all generations, the first one first: from then on, the trial is free.

If a process is stopped in the middle of this for longer than claims last, it may make a gap below a claim of another
one, which then no longer holds it. Two processes never hold the same trial.
"""

from pathlib import Path

from pai_bench.support import infile

LONGEST = 256
"""Bytes of a claim that are read; the name of an owner has 16."""


def path_of(folder: Path, identity: str, generation: int) -> Path:
    """The file of a claim."""
    return folder / f"{identity}.{generation}"


def identity_in(name: str) -> str | None:
    """The trial of which the file `name` is a claim; None if it is none."""
    identity, _, generation = name.rpartition(".")
    return identity if identity and generation.isascii() and generation.isdigit() else None


def owner_in(path: Path) -> str | None:
    """The name in a claim, empty if it is not written or damaged; None without a claim. Raises OSError."""
    try:
        return infile.read(path, LONGEST).decode(errors="replace")
    except FileNotFoundError:
        return None
    except ValueError:
        return ""


def row(folder: Path, identity: str) -> list[str]:
    """The owners of all generations; the last one has the claim. Raises OSError."""
    owners: list[str] = []
    while (owner := owner_in(path_of(folder, identity, len(owners)))) is not None:
        owners.append(owner)
    return owners


def take(folder: Path, identity: str, owners: list[str], owner: str) -> bool:
    """Claim a trial after its `owners` so far, whose claims are void; False if another was faster. Raises OSError."""
    path, wanted = path_of(folder, identity, len(owners)), [*owners, owner]
    try:
        with path.open("xb", buffering=0) as file:
            file.write(owner.encode())
    except FileExistsError:
        return False
    found = row(folder, identity)
    if found[: len(wanted)] != wanted:  # they were released meanwhile: a later claim must not follow on this one
        path.unlink(missing_ok=True)
    return found == wanted


def remove(folder: Path, identity: str, generations: int) -> None:
    """Remove so many generations; or OSError."""
    for generation in range(generations):
        path_of(folder, identity, generation).unlink(missing_ok=True)
