"""All records of a results folder in one small file, so that a report can be made again from what stands beside it.

``records.jsonl.xz``: one JSON object a line, ``{"folder": ..., "name": ..., "content": ...}``, compressed. Masks are
left out: they are most of the bytes, and a run of the same trials makes them again.
"""

import hashlib
import json
import lzma
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any

from pai_bench.results.collapses import Collapse
from pai_bench.results.measurements import BenchmarkResult, Cost, TrialMetrics
from pai_bench.results.records import Record
from pai_bench.results.stored import CHECKSUM, LONGEST, json_object, with_checksum, without_checksum
from pai_bench.support import infile, outfile
from pai_bench.support.errors import UserError, reason

SUFFIX = ".jsonl.xz"
NAME = f"records{SUFFIX}"

FOLDERS = tuple(stored.folder for stored in (Record, Cost, Collapse, BenchmarkResult, TrialMetrics))
"""The folders of a results folder."""

LARGEST = 2**30
"""Bytes that all lines may have: a small file can hold any number of them."""

MOST = 2**20
"""Lines that there may be."""

MOST_LEFT_OUT = 10_000
"""Lines without a record that there may be: what holds more is another file."""

LONGEST_NAME = 240
"""Bytes that the name of a record may have, so that a file can be called by it."""

NO_JSON = (ValueError, RecursionError)
"""What reading a text as JSON may raise."""


def pack(results: Path, path: Path) -> int:
    """Write what the folder `results` holds into the file `path`, whole or not at all; how many records there are."""
    records = [entry for folder in FOLDERS for entry in entries(results / folder)]
    text = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in records)
    if len(text) > LARGEST or len(records) > MOST:
        raise UserError(f"{len(records):,} records of {len(text):,} bytes are too many for {path}: divide the folder")
    outfile.write(path, lzma.compress(text.encode(), preset=9), "the file of records")
    return len(records)


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of a folder, in the order of their names; what is damaged is left out, as it is of a report."""
    for path in sorted(folder.glob("*.json")):
        try:
            raw = json_object(infile.read(path, LONGEST))
            content = without_checksum(raw)
        except (*NO_JSON, OSError):
            continue
        if folder.name == Record.folder:
            content["mask"] = None
        content = with_checksum(content) if CHECKSUM in raw else content
        yield {"folder": folder.name, "name": path.stem, "content": content}


def is_archive(path: Path) -> bool:
    """Whether `path` is a file of records, or a folder that holds one and no results of its own.

    Raises UserError for what nobody could look at, such as a name that is too long.
    """
    try:
        path.exists()
    except (OSError, ValueError) as error:
        raise UserError(f"results {path} cannot be read ({reason(error)})") from error
    return path.name.endswith(SUFFIX) or ((path / NAME).is_file() and not has_results(path))


def has_results(folder: Path) -> bool:
    """Whether there is a result in a results folder, readable or not."""
    return any(any((folder / name).glob("*.json")) for name in FOLDERS)


def unpack(path: Path) -> tuple[Path, dict[str, str]]:
    """A temporary results folder with the records of the file `path`, or of the one in the folder `path`.

    Also returns why lines are left out, by ``line N``. The caller removes the folder.
    """
    path = path / NAME if path.is_dir() else path
    folder = Path(tempfile.mkdtemp(prefix="pai-bench-records-"))
    try:
        infile.check(path)
        with lzma.open(path, "rb") as file:
            return folder, extract(file, folder)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"records {path} cannot be read ({reason(error)})") from error
        if isinstance(error, ValueError | EOFError | lzma.LZMAError):
            raise UserError(f"{path} is not a file of records ({type(error).__name__}: {error})") from error
        raise


def extract(file: IO[bytes], folder: Path) -> dict[str, str]:
    """Write the records in `file` below `folder`; why lines are left out, ValueError if all are."""
    seen: dict[Path, tuple[int, bytes]] = {}
    left_out: dict[str, str] = {}
    for number, line in lines(file):
        if len(left_out) > MOST_LEFT_OUT:
            raise ValueError(f"more than {MOST_LEFT_OUT:,} lines hold no record")
        try:
            path, text = record_of(line, folder)
        except (*NO_JSON, KeyError, TypeError) as error:
            left_out[f"line {number}"] = f"{type(error).__name__}: {error}"
            continue
        digest = hashlib.sha256(text.encode()).digest()
        first, first_digest = seen.setdefault(path, (number, digest))
        if first_digest != digest:
            left_out[f"line {number}"] = f"line {first} holds another record of the same name"
        elif first == number:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if left_out and not seen:
        raise ValueError(": ".join(next(iter(left_out.items()))))
    return left_out


def lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers, or ValueError at one that no record can be, or at too many."""
    total = 0
    for number in count(1):
        if not (line := file.readline(LONGEST + 1)):
            return
        total += len(line)
        if len(line) > LONGEST:
            raise ValueError(f"line {number} has more than {LONGEST:,} bytes")
        if total > LARGEST or number > MOST:
            raise ValueError(f"it has more than {MOST:,} lines, or {LARGEST:,} bytes")
        if line.strip():
            yield number, line


def record_of(line: bytes, folder: Path) -> tuple[Path, str]:
    """The path below `folder` of the record in a line, and its text."""
    entry = json.loads(line)
    inner, name = str(entry["folder"]), str(entry["name"])
    if inner not in FOLDERS or Path(name).name != name or "\0" in name or len(os.fsencode(name)) > LONGEST_NAME:
        raise ValueError(f"it names the place {inner}/{name}")
    return folder / inner / f"{name}.json", json.dumps(entry["content"])
