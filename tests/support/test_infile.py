"""Files are read up to a limit, and nothing but files."""

import os
from pathlib import Path

import pytest

from pai_bench.support import infile


def test_a_file_is_read_up_to_its_limit() -> None:
    Path("three").write_bytes(b"abc")
    assert infile.read("three", 3) == b"abc"
    with pytest.raises(ValueError, match="it has more than 2 bytes"):
        infile.read("three", 2)


def test_what_is_no_file_is_named() -> None:
    os.mkfifo("pipe")
    for path, what in ((".", "a folder"), ("pipe", "a device, pipe or socket"), (os.devnull, "a device")):
        with pytest.raises(ValueError, match=f"it is {what}"):
            infile.check(path)
    with pytest.raises(FileNotFoundError):
        infile.check("gone")
