"""Processes that claim trials: real ones that are told what to do, and files of such as there might be."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

from pai_bench.results import claim_files, owners
from pai_bench.results.owners import Owner
from pai_bench.support.process_identity import ProcessIdentity, this_process

CODE = """
import sys
from pathlib import Path
from pai_bench.results.claims import Claims
with Claims(Path(sys.argv[1]), beat=float(sys.argv[2])) as claims:
    for line in sys.stdin:
        method, identity = line.split()
        print(getattr(claims, method)(identity), flush=True)
"""


class Process:
    """A process with claims in a folder; they are released at the end of the block, unless it was killed."""

    def __init__(self, folder: Path, beat: float = 0.05) -> None:
        command = [sys.executable, "-c", CODE, str(folder), str(beat)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def call(self, method: str, identity: str) -> str:
        """What a method of its `Claims` returns."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{method} {identity}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """As the system does, or a user."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.communicate(timeout=60)


def ended() -> ProcessIdentity:
    """A process of this machine that has ended."""
    return dataclasses.replace(this_process(), start="0")


def write(folder: Path, process: ProcessIdentity, *claimed: str, **fields: Any) -> Owner:
    """An owner with claims, as it would write them."""
    owner = Owner(id=f"{len(list(folder.glob('*'))):016x}", **vars(process) | fields)
    folder.mkdir(parents=True, exist_ok=True)
    owners.path_of(folder, owner.id).write_bytes(owners.encoded(owner))
    for identity in claimed:
        assert claim_files.take(folder, identity, claim_files.row(folder, identity), owner.id)
    return owner


def wait_until(condition: Callable[[], object]) -> None:
    """Fail if it does not hold within a minute."""
    end = monotonic() + 60
    while not condition():
        assert monotonic() < end
        sleep(0.01)
