"""The processes that run trials of a results folder: each says in a file of its own what it runs, every few seconds."""

import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pai_bench.results.stored import LONGEST, plain_text
from pai_bench.support import infile, process_identity
from pai_bench.support.process_identity import ProcessIdentity

SUFFIX = ".owner.json"


@dataclass(frozen=True, kw_only=True)
class Running:
    """A trial that a process runs."""

    identity: str
    epoch: int = 0
    epochs: int = 0
    """0 until they are known."""
    since: str


@dataclass(frozen=True, kw_only=True)
class Owner(ProcessIdentity):
    """A process that runs trials, as its file describes it. Times are of the clock of its machine, for display only."""

    id: str
    command: str | None = None
    since: str = ""
    written: str = ""
    """When the file was written."""
    beat: int = 0
    """How often it was written."""
    done: int = 0
    total: int = 0
    running: tuple[Running, ...] = ()

    def __str__(self) -> str:
        return super().__str__() if self.host else f"a process that says nothing of itself ({self.id or 'no name'})"


def this_owner(command: str | None) -> Owner:
    """The process that calls this, as an owner that runs nothing yet."""
    shown = command and plain_text(command)
    return Owner(id=secrets.token_hex(8), command=shown, since=now(), **vars(process_identity.this_process()))


def path_of(folder: Path, owner_id: str) -> Path:
    """The file of an owner."""
    return folder / f"{owner_id}{SUFFIX}"


def encoded(owner: Owner) -> bytes:
    """The content of the file of an owner."""
    return msgspec.json.encode(owner)


def read(path: Path) -> Owner:
    """The owner that a file describes; OSError, or ValueError if it is damaged."""
    try:
        owner = msgspec.json.decode(infile.read(path, LONGEST), type=Owner)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if owner.id != path.name.removesuffix(SUFFIX):
        raise ValueError("it is of another process than its name says")
    return owner


def read_all(folder: Path) -> tuple[list[Owner], dict[Path, str]]:
    """All owners, in the order in which they began, and the files that cannot be read, with the reasons."""
    owners, damaged = list[Owner](), dict[Path, str]()
    names = sorted(os.listdir(folder)) if os.path.lexists(folder) else []
    for path in (folder / name for name in names if name.endswith(SUFFIX)):
        try:
            owners.append(read(path))
        except FileNotFoundError:  # it has ended meanwhile
            continue
        except (OSError, ValueError) as error:
            damaged[path] = str(error)
    return sorted(owners, key=lambda owner: owner.since), damaged


def now() -> str:
    """The time as a text."""
    return datetime.now(UTC).isoformat(timespec="seconds")
