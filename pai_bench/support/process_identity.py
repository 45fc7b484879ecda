"""Which process of which machine, and whether it has ended, as far as Linux tells; elsewhere, nothing is known.

A number alone is not enough: containers have equal ones, and the system gives those of ended processes to new ones.
"""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """A process; a text is empty where the system does not tell it."""

    pid: int
    host: str = ""
    boot: str = ""
    """Of this start of the machine."""
    namespace: str = ""
    """In which the number is one process."""
    start: str = ""
    """When it began, in ticks since the machine did."""

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


def this_process() -> ProcessIdentity:
    """The process that calls this."""
    process = ProcessIdentity(pid=os.getpid(), host=socket.gethostname())
    with suppress(OSError):
        if os.readlink("/proc/self") == str(process.pid):  # or else it shows the processes of another namespace
            namespace = os.readlink("/proc/self/ns/pid")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
            return replace(process, boot=boot, namespace=namespace, start=start_of(process.pid) or "")
    return process


def has_ended(process: ProcessIdentity) -> bool:
    """Whether a process is known to have ended: one of this machine and namespace, which is no longer there."""
    here = this_process()
    known = all((process.boot, process.namespace, process.start))
    if not known or (process.boot, process.namespace) != (here.boot, here.namespace):
        return False
    start = start_of(process.pid)
    return start not in (None, process.start)


def start_of(pid: int) -> str | None:
    """When a process began, or a word if it has ended; None if that cannot be known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None if is_there(pid) else "ended"
    except OSError:
        return None
    state, *fields = text.rpartition(b")")[2].split()  # before it is the name, which may hold anything
    return "ended" if state in (b"Z", b"X") else fields[18].decode()


def is_there(pid: int) -> bool:
    """Whether there is such a process, although the system may hide it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user, or no number of a process
        return True
    return True
