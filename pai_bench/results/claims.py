"""Claims: which trials of a results folder this process runs, so that the processes that share it divide them.

Nothing here compares clocks of machines, which may differ. That a process has ended is known at once on its machine;
elsewhere it is taken for ended when an observer has seen no new beat of it for a while, by the observer's clock.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from pai_bench.results import claim_files, owners
from pai_bench.results.owners import Owner, Running
from pai_bench.results.stored import plain_text
from pai_bench.support import outfile
from pai_bench.support.errors import reason
from pai_bench.support.process_identity import has_ended
from pai_bench.support.processes import HEARTBEAT

logger = logging.getLogger(__name__)

FOLDER = "claims"
"""Where they are, in a results folder."""

EXPIRY = 60.0
"""Seconds without a beat after which the trials of a process are run by others."""


class Claims:
    """The trials of a results folder that this process (an owner) runs; no other process runs them meanwhile.

    A block in which it tells the others every `beat` seconds that it lives. `clock` counts the `expiry`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        command: str | None = None,
        expiry: float = EXPIRY,
        beat: float = HEARTBEAT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.expiry, self.beat, self.clock = folder, expiry, beat, clock
        self.lost: str | None = None
        """Why claims cannot be kept any more; then every trial can be claimed."""
        self._troubled = False
        """Whether an error that may pass was told."""
        self.owner = owners.this_owner(command)
        self._running: dict[str, Running] = {}
        self._seen: dict[str, tuple[int | None, float]] = {}
        """Owner, or claim without a name -> its beat, and when that was first seen."""
        self._awake = time.monotonic()
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="claims", daemon=True)

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            self._lose(error)
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.release_all()
        self._end.set()
        self._thread.join(self.beat)  # not for ever: the disk may hang
        with suppress(OSError):
            owners.path_of(self.folder, self.owner.id).unlink()

    def claim(self, identity: str) -> bool:
        """Whether the trial is now this process's, or was; False if another one runs it."""
        try:
            claimed = self.lost is not None or self._claim(identity)
        except OSError as error:
            claimed = self._lose(error)  # if it passes, the trial is asked for again
        if claimed:
            with self._lock:
                self._running.setdefault(identity, Running(identity=plain_text(identity), since=owners.now()))
        return claimed

    def _claim(self, identity: str) -> bool:
        row = claim_files.row(self.folder, identity)
        if row and row[-1] == self.owner.id:
            return True
        if row and self._holder(identity, row) is not None:
            return False
        return claim_files.take(self.folder, identity, row, self.owner.id)

    def holds(self, identity: str) -> bool:
        """Whether this process still has the claim of a trial: another may have taken it over, or removed it."""
        try:
            return self.lost is not None or claim_files.row(self.folder, identity)[-1:] == [self.owner.id]
        except OSError as error:
            self._lose(error)
            return True  # a record is not written over another one

    def release(self, identity: str) -> None:
        """Let others have a trial; nothing happens if they have it already."""
        with self._lock:
            self._running.pop(identity, None)
        with suppress(OSError):
            row = claim_files.row(self.folder, identity)
            if row[-1:] == [self.owner.id]:
                claim_files.remove(self.folder, identity, len(row))

    def release_all(self) -> None:
        """Let others have all trials that this process has."""
        for identity in list(self._running):
            self.release(identity)

    def holder(self, identity: str) -> Owner | None:
        """Who runs a trial now, this process too; None if nobody does, or its claim has expired."""
        try:
            row = claim_files.row(self.folder, identity)
        except OSError as error:
            self._lose(error)
            return None
        return self._holder(identity, row) if row else None

    def progress(self, identity: str, epoch: int, epochs: int) -> None:
        """The epoch that a trial is in; told with the next beat."""
        with self._lock:
            if identity in self._running:
                self._running[identity] = replace(self._running[identity], epoch=epoch, epochs=epochs)

    def totals(self, done: int, total: int) -> None:
        """How many trials of this process's sweep are stored, and how many there are; told with the next beat."""
        with self._lock:
            self.owner = replace(self.owner, done=done, total=total)

    def _holder(self, identity: str, row: list[str]) -> Owner | None:
        """The owner of the last of a row of claims, unless it has expired."""
        name, beat = row[-1], None
        owner = Owner(id=name, pid=0)
        with suppress(OSError, ValueError):
            owner = owners.read(owners.path_of(self.folder, name))
            beat = owner.beat
        if has_ended(owner):
            return None
        silence = self._silence(name or f"{identity}.{len(row) - 1}", beat)
        return owner if silence < self.expiry else None

    def _silence(self, key: str, beat: int | None) -> float:
        """For how long there was no other beat; None is of a file that cannot be read."""
        with self._lock:
            self._notice_stop()
            now = self.clock()
            last, since = self._seen.get(key, (beat, now))
            if beat not in (None, last):
                last, since = beat, now
            self._seen[key] = last, since
        return now - since

    def _notice_stop(self) -> None:
        """Forget all silence after a time in which this process was stopped: the others may have been, too."""
        now = time.monotonic()
        if now - self._awake > self.expiry / 2:
            self._seen.clear()
        self._awake = now

    def _keep_beating(self) -> None:
        while self.lost is None and not self._end.wait(self.beat):
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            self._notice_stop()
            running = tuple(self._running.values())
            self.owner = replace(self.owner, beat=self.owner.beat + 1, written=owners.now(), running=running)
            content = owners.encoded(self.owner)
        try:
            outfile.write_whole(owners.path_of(self.folder, self.owner.id), content)
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> bool:
        """Whether claims can no longer be kept, because of an error that will not pass; it is told once."""
        passing = error.errno in outfile.PASSING
        with self._lock:
            if self.lost is not None or (passing and self._troubled):
                return self.lost is not None
            self._troubled, self.lost = True, None if passing else reason(error)
        if passing:
            logger.warning("claims in %s cannot be kept now (%s): they are tried again", self.folder, reason(error))
            return False
        what = "this process continues without them, and others may run the same trials"
        logger.warning("claims in %s can no longer be kept (%s): %s", self.folder, self.lost, what)
        return True
