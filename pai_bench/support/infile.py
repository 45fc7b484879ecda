"""Reading files of which nobody knows what they are: nothing but files, and no more of them than fits."""

import os
import stat
from pathlib import Path


def read(path: str | Path, limit: int) -> bytes:
    """The content of the file `path`, at most `limit` bytes.

    Raises OSError as `open` does, and ValueError for a longer file, and for what is no file: a pipe would never end.
    """
    check(path)
    with open(path, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return content


def check(path: str | Path) -> None:
    """Raise ValueError if `path` is something else than a file, and OSError if there is nothing."""
    if what := other_than_file(os.stat(path).st_mode):
        raise ValueError(f"it is {what}, not a file")


def other_than_file(mode: int) -> str | None:
    """What something with the mode `mode` is; None for a file."""
    if stat.S_ISREG(mode):
        return None
    return "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
