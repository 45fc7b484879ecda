"""What a stage has to do, and what became of each piece of it: kept in its archive."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from benchmarks.gpu.archive import Archive

NAME = "stage.json"
NO_TIME = "not enough time"

HANGS = 60.0
"""Seconds after which a piece that is not done hangs, or three times what it needs; most take a few."""

Status = Literal["missing", "running", "passed", "failed", "skipped", "measured"]


@dataclass(frozen=True)
class Entry:
    """One piece of a stage.

    It is not begun with less than `needs` seconds left. `run` is the run that tried it last, `since` when it began, on
    the clock `time.monotonic`; `fatal` says that its process did not outlive it.
    """

    group: str
    name: str
    version: int = 1
    needs: float = 1.0
    status: Status = "missing"
    reason: str | None = NO_TIME
    seconds: float = 0.0
    run: str = ""
    since: float = 0.0
    fatal: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        """What has to be equal for an earlier result to be this piece's."""
        return self.group, self.name, self.version

    @property
    def title(self) -> str:
        """Group and name."""
        return f"{self.group}: {self.name}"


class Ledger:
    """The pieces of a stage on one machine, in their order; `state` is for what the stage wants to know next time."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        raw: dict[str, Any] = json.loads(archive.texts.get(NAME, "{}"))
        self.machine: str = raw.get("machine", "")
        self.error: str | None = raw.get("error")
        self.state: dict[str, Any] = raw.get("state", {})
        self.entries = {entry.key: entry for entry in (Entry(**one) for one in raw.get("pieces", []))}

    def plan(self, entries: Iterable[Entry], machine: str) -> None:
        """Begin with these pieces; what an earlier run found of them on such a machine stays."""
        same = self.machine == machine
        before, self.state = (self.entries, self.state) if same else ({}, {})
        if not same:
            self.archive.drop(("benchmarks/", "costs/"))  # what another machine took; trained networks stay
        self.entries = {entry.key: before.get(entry.key, entry) for entry in entries}
        self.machine, self.error = machine, None
        self.write()

    def set(
        self, key: tuple[str, str, int], texts: dict[str, str] | None = None, *, without: str = "", **changes: Any
    ) -> None:
        """Change an entry, and write it together with the `texts` that belong to it, and `without` an earlier one."""
        self.entries[key] = replace(self.entries[key], **changes)
        self.write(texts, without=without)

    def settle(self, reason: str, *, stopped: bool) -> None:
        """The process has ended for this `reason`: what was running has failed, or was `stopped` before it was done.

        What was stopped after so long that it will not have been the time has failed, too.
        """
        for key, entry in self.entries.items():
            if entry.status == "running":
                seconds = time.monotonic() - entry.since
                status: Status = "missing" if stopped and seconds < max(HANGS, 3 * entry.needs) else "failed"
                why = f"{reason}, after {seconds:.0f} s"
                self.entries[key] = replace(entry, status=status, reason=why, seconds=round(seconds, 3), fatal=True)
        self.write()

    def write(self, texts: dict[str, str] | None = None, *, without: str = "") -> None:
        """Write the archive."""
        content = {
            "machine": self.machine,
            "error": self.error,
            "state": self.state,
            "pieces": [asdict(entry) for entry in self.entries.values()],
        }
        self.archive.add({NAME: json.dumps(content, indent=1), **(texts or {})}, without=without)
