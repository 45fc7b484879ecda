"""Reading files of unknown content: regular files alone, and no more bytes than a limit."""

import os
import stat
from pathlib import Path


def read(path: str | Path, limit: int) -> bytes:
    """The content of the file `path`; OSError as of `open`, ValueError for no file or more bytes than `limit`."""
    check(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size  # memory is taken for as much as may come, however large the limit
        content = file.read(min(limit, size) + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return content


def check(path: str | Path) -> None:
    """Raise ValueError if `path` is not a regular file (a pipe may never end), and OSError if it is missing."""
    if file_type := other_than_file(os.stat(path).st_mode):
        raise ValueError(f"it is {file_type}, not a file")


def other_than_file(mode: int) -> str | None:
    """The type of a path with this mode, in words; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    return "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
