"""Checkpoints of trials that are trained: one safetensors file for those that are trained together.

The file holds the tensors of a state, and in its metadata everything else as JSON, with a checksum of both.
"""

import hashlib
import json
import logging
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pai_bench.results import claim_files
from pai_bench.results.claims import FOLDER as CLAIMS
from pai_bench.results.folder import CHECKPOINTS, free_name
from pai_bench.support import infile, outfile
from pai_bench.support.errors import reason
from pai_bench.support.identity import digest

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"

FORMAT = 1
"""Version of what a checkpoint holds; another one cannot be resumed from."""

VALUES, CHECKSUM = "values", "checksum"
"""Keys of the metadata."""

LARGEST_HEAD = 2**28
"""Bytes that the head of a file may have, in which the groups of structured masks are."""

DAMAGED = (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError)
"""What reading a damaged file may raise."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What the head of a checkpoint says: its trials, and how many of their steps are done."""

    path: Path
    trials: tuple[str, ...]
    """Their identities, in the order in which they are trained together."""
    step: int
    steps: int


class CheckpointFolder:
    """The checkpoints in the results folder `results`, each under a name that its trials give.

    `owner` is the process that writes them, by the name in its claims.
    """

    def __init__(self, results: Path, owner: str = "") -> None:
        self.path, self.owner = results / CHECKPOINTS, owner
        self._writable = True

    def path_of(self, trials: Sequence[str]) -> Path:
        """The file of the checkpoint of exactly these trials."""
        first, *others = trials
        beside = f"+{len(others)}-{digest(list(trials))}" if others else ""
        return self.path / f"{first}{beside}{SUFFIX}"

    def write(self, trials: Sequence[str], content: bytes) -> None:
        """Store a checkpoint, whole or not at all, in place of an earlier one; a warning if that cannot be done."""
        try:
            self.path.mkdir(exist_ok=True)  # its parent is that of all results, and is not made again
            outfile.write_whole(self.path_of(trials), content, durable=True)
        except OSError as error:
            if self._writable:
                logger.warning("checkpoints cannot be written to %s (%s); the sweep goes on", self.path, reason(error))
            self._writable = False

    def read(self, trials: Sequence[str]) -> bytes | None:
        """The checkpoint of exactly these trials, or None; a damaged one is named and set aside."""
        path = self.path_of(trials)
        try:
            content = infile.read(path, path.stat().st_size)
            return content if tuple(check(content)["trials"]) == tuple(trials) else None
        except FileNotFoundError:
            return None
        except DAMAGED as error:
            self.set_aside(trials, f"is damaged ({error})")
        except OSError as error:
            logger.warning("checkpoint %s cannot be read (%s): its trials begin again", path, reason(error))
        return None

    def holds(self, trials: Sequence[str]) -> bool:
        """Whether there is a checkpoint of exactly these trials, whole or not."""
        with suppress(OSError, *DAMAGED):
            path = self.path_of(trials)
            return summary(path, head_of(path)).trials == tuple(trials)
        return False

    def claimed(self, trials: Iterable[str]) -> frozenset[str]:
        """Those of some trials that the owner has claimed."""
        return frozenset(trial for trial in trials if self._is_claimed(trial))

    def _is_claimed(self, trial: str) -> bool:
        folder = self.path.parent / CLAIMS
        try:
            return claim_files.row(folder, trial)[-1:] == [self.owner] or not folder.exists()
        except OSError:
            return True  # as without the folder, nobody else can claim it now

    def set_aside(self, trials: Sequence[str], why: str) -> None:
        """Rename a checkpoint, so that nothing reads it."""
        path = self.path_of(trials)
        with suppress(OSError):
            aside = path.replace(free_name(path))
            logger.warning("checkpoint %s %s: set aside as %s, its trials begin again", path, why, aside.name)

    def remove(self, trials: Sequence[str]) -> None:
        """Remove the checkpoint of trials that are done, if there is one."""
        with suppress(OSError):
            self.path_of(trials).unlink()

    def __iter__(self) -> Iterator[Checkpoint]:
        """All that can be read, by their heads alone."""
        for path in sorted(self.path.glob(f"*{SUFFIX}")):
            with suppress(OSError, *DAMAGED):
                yield summary(path, head_of(path))


def summary(path: Path, head: Mapping[str, Any]) -> Checkpoint:
    """What a head says."""
    values = json.loads(head["__metadata__"][VALUES])
    state = values["state"]
    return Checkpoint(path=path, trials=tuple(values["trials"]), step=int(state["step"]), steps=int(state["steps"]))


def head_of(path: Path) -> dict[str, Any]:
    """The head of a safetensors file."""
    infile.check(path)
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        head: dict[str, Any] = json.loads(file.read(min(size, LARGEST_HEAD)))
    return head


def check(content: bytes) -> dict[str, Any]:
    """The values in a checkpoint; an error of `DAMAGED` if its content is not that of its checksum."""
    (size,) = struct.unpack("<Q", content[:8])
    head = json.loads(content[8 : 8 + size])
    metadata = head.pop("__metadata__")
    data = memoryview(content)[8 + size :]
    parts = {name: data[slice(*entry["data_offsets"])] for name, entry in head.items()}
    if len(data) != sum(map(len, parts.values())) or checksum(parts, metadata[VALUES]) != metadata[CHECKSUM]:
        raise ValueError("its content is not that of its checksum")
    values: dict[str, Any] = json.loads(metadata[VALUES])
    return values


def checksum(parts: Mapping[str, Any], values: str) -> str:
    """The checksum of tensors, as bytes by name, and of the text of all other values."""
    total = hashlib.blake2b(values.encode(), digest_size=16)
    for name in sorted(parts):
        total.update(f"\n{name}\n".encode())
        total.update(parts[name])
    return total.hexdigest()
