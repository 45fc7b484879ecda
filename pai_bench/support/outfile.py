"""Writing files whole or not at all; those that a user names through symbolic links, and over regular files alone."""

import errno
import glob
import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from pai_bench.support import infile
from pai_bench.support.errors import UserError, reason

ABANDONED = 3600
"""Age in seconds at which a temporary file must be that of a killed process: writing it takes less than one."""

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""Errors of too many open files, in this process or on the machine; of no memory; of no further process."""

PASSING = (*SHORTAGES, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
"""These, and those of a network file system while its server does not answer, or after it has started again."""

LONGEST_STEM = 50
"""Characters of a file's name in that of its temporary file, whose name is limited, too."""


def write(path: str | Path, content: str | bytes, what: str) -> None:
    """Write `content` to the file `path`, whole or not at all, in place of an earlier file; make missing folders.

    Where `path` is a symbolic link, its target is written. Permissions are those of the earlier file, or what the umask
    leaves to a new one. Raises UserError, which calls the file `what`, if that cannot be done.
    """
    target = check(path, what)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent, stem(target))
        write_whole(target, content)
    except OSError as error:
        raise refusal(path, what, error) from error


def write_whole(target: Path, content: str | bytes, *, durable: bool = False, is_new: bool = False) -> None:
    """Write a temporary file and rename it to `target`; a `durable` one is on the disk before that. Raises OSError.

    For one that `is_new`, FileExistsError if there is such a file, also if another process has just made it.
    """
    new = temporary(target)
    try:
        with new.open("xb") as file:
            file.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(target, new)
        (link if is_new else Path.replace)(new, target)
    finally:
        with suppress(OSError):  # it has its name by now, or the folder is gone, which is an error already
            new.unlink()


def link(new: Path, target: Path) -> None:
    """Give a file the name `target` beside its own; FileExistsError if there is one of that name."""
    try:
        os.link(new, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: the best that it can do
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        new.replace(target)


def stem(target: Path) -> str:
    """How the names of temporary files of the file `target` begin."""
    return f".{target.name[:LONGEST_STEM]}"


def temporary(target: Path) -> Path:
    """A path beside `target` that no other process writes to, in another container or on another machine either."""
    return target.with_name(f"{stem(target)}.{secrets.token_hex(8)}.tmp")


def remove_abandoned(folder: Path, stem: str = "") -> None:
    """Remove the temporary files of killed processes from a folder, those of one `stem` or all; or OSError."""
    now = time_of(folder)
    for file in folder.glob(f"{glob.escape(stem)}.*.tmp"):
        with suppress(OSError):  # another process was faster
            if now - file.stat().st_mtime > ABANDONED:
                file.unlink()


def time_of(folder: Path) -> float:
    """The time by the clock of a folder's file system, which may be that of another machine; or OSError."""
    clock = temporary(folder / "clock")
    try:
        clock.touch()
        return clock.stat().st_mtime
    finally:
        with suppress(OSError):
            clock.unlink()


def check(path: str | Path, what: str) -> Path:
    """The file that `write` to `path` will write; UserError if it is clear beforehand that it cannot."""
    try:
        target = Path(os.path.realpath(path))
        mode = os.stat(path).st_mode  # not of the target: links to open pipes lead to no name
        if stat.S_ISREG(mode) and not os.access(target, os.W_OK):
            raise PermissionError("the file is write-protected")
    except FileNotFoundError:
        return target
    except (OSError, ValueError) as error:
        raise refusal(path, what, error) from error
    if file_type := infile.other_than_file(mode):
        raise UserError(f"{what} cannot be written to {path}, which is {file_type}: name a file")
    return target


def refusal(path: str | Path, what: str, error: OSError | ValueError) -> UserError:
    """The error that says why a file cannot be written."""
    return UserError(f"{what} cannot be written to {path} ({reason(error)})")
