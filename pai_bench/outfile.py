"""Files that a user asks for: written whole or not at all, through symbolic links, and to nothing but files."""

import glob
import os
import secrets
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

from pai_bench.errors import UserError

ABANDONED = 600
"""Seconds after which nobody writes a temporary file any more: its process was killed."""

LONGEST_STEM = 50
"""Characters of a file's name in that of its temporary file, which would otherwise be too long for a long one."""


def write(path: str | Path, content: str | bytes, what: str) -> None:
    """Write `content` to the file `path`, whole or not at all, in place of an earlier file; make missing folders.

    Where `path` is a symbolic link, its target is written. Permissions are those of the earlier file, or what the umask
    leaves to a new one. Raises UserError, which calls the file `what`, if that cannot be done.
    """
    target = check(path, what)
    stem = f".{target.name[:LONGEST_STEM]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent, stem)
        beside = target.with_name(f"{stem}.{secrets.token_hex(8)}.tmp")
        try:
            with beside.open("xb") as file:
                file.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)
            if target.exists():
                shutil.copymode(target, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(path, what, error) from error


def check(path: str | Path, what: str) -> Path:
    """The file that `write` to `path` will write; UserError if it can be seen before that it cannot."""
    try:
        target = Path(os.path.realpath(path))
        mode = os.stat(path).st_mode  # not of the target: links to open pipes lead to no name
        if stat.S_ISREG(mode) and not os.access(target, os.W_OK):
            raise PermissionError("the file is write-protected")
    except FileNotFoundError:
        return target
    except (OSError, ValueError) as error:
        raise refusal(path, what, error) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise UserError(f"{what} cannot be written to {path}, which is {kind}: name a file")
    return target


def refusal(path: str | Path, what: str, error: OSError | ValueError) -> UserError:
    """The error that says why a file cannot be written."""
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return UserError(f"{what} cannot be written to {path} ({reason})")


def remove_abandoned(folder: Path, stem: str) -> None:
    """Remove what killed processes have left behind while they wrote the same file."""
    for left in folder.glob(f"{glob.escape(stem)}.*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
