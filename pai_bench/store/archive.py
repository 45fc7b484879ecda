"""All records of a results folder in one small file, so that a report can be made again from what stands beside it.

``records.jsonl.xz``: one JSON object a line, ``{"folder": ..., "name": ..., "content": ...}``, compressed. Masks are
left out: they are most of the bytes, and a run of the same trials makes them again.
"""

import json
import lzma
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pai_bench.errors import UserError

NAME = "records.jsonl.xz"

FOLDERS = ("trials", "costs", "collapse", "benchmarks")
"""The folders of a results folder."""


def pack(results: Path, path: Path) -> int:
    """Write what the folder `results` holds into the file `path`, whole or not at all; how many records there are."""
    found = [entry for folder in FOLDERS for entry in entries(results / folder)]
    beside = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lzma.open(beside, "wt", encoding="utf-8", preset=9) as file:
            file.writelines(json.dumps(entry, separators=(",", ":")) + "\n" for entry in found)
        beside.replace(path)
    except OSError as error:
        raise UserError(f"the records cannot be written to {path} ({error.strerror or error})") from error
    finally:
        beside.unlink(missing_ok=True)
    return len(found)


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of a folder, in the order of their names; what is no JSON is left out, as it is of a report."""
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            continue
        if isinstance(content, dict):
            if folder.name == "trials":
                content["mask"] = None
            yield {"folder": folder.name, "name": path.stem, "content": content}


def is_archive(path: Path) -> bool:
    """Whether `path` is a file of records, or a folder that holds one and no results of its own."""
    return path.name.endswith(".jsonl.xz") or (
        (path / NAME).is_file() and not any(any((path / folder).glob("*.json")) for folder in FOLDERS)
    )


def unpack(path: Path) -> Path:
    """A temporary results folder with the records of the file `path`, or of the one in the folder `path`.

    Whoever asks for it removes it.
    """
    path = path / NAME if path.is_dir() else path
    made = Path(tempfile.mkdtemp(prefix="pai-bench-records-"))
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                entry = json.loads(line)
                folder, name = str(entry["folder"]), str(entry["name"])
                if folder not in FOLDERS or Path(name).name != name:
                    raise ValueError(f"it names the place {folder}/{name}")
                place = made / folder
                place.mkdir(exist_ok=True)
                (place / f"{name}.json").write_text(json.dumps(entry["content"]), encoding="utf-8")
    except OSError as error:
        shutil.rmtree(made)
        raise UserError(f"records {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, EOFError, lzma.LZMAError) as error:
        shutil.rmtree(made)
        raise UserError(f"{path} is not a file of records ({type(error).__name__}: {error})") from error
    return made
