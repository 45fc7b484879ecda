"""A stage's results as one tar file: a results folder that is written anew with every record."""

import io
import logging
import re
import tarfile
from pathlib import Path

logger = logging.getLogger(__name__)

LARGEST = 15 * 2**20
"""Bytes of an archive at most: some machines give back no file of more than 16 MiB."""

RESULT = re.compile(r"(trials|costs|benchmarks)/[\w.=-]+\.json")
"""Names of the files that a results folder holds."""


class Archive:
    """Texts by name, always whole on the disk: an archive is written beside its final name and renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: dict[str, str] = read(path)

    def add(self, texts: dict[str, str], *, without: str = "") -> None:
        """Put in `texts`, in place of earlier ones of the same names and of that `without`, and write all of it."""
        found = {name: text for name, text in self.texts.items() if name != without} | texts
        content = packed(found)
        if len(content) > LARGEST:
            raise ValueError(f"{self.path.name} would have {len(content):,} bytes, more than {LARGEST:,}")
        beside = self.path.with_name(f".{self.path.name}.tmp")
        beside.write_bytes(content)
        beside.replace(self.path)
        self.texts = found

    def drop(self, folders: tuple[str, ...]) -> None:
        """Take out all texts in some folders; the next that is put in writes the archive."""
        self.texts = {name: text for name, text in self.texts.items() if not name.startswith(folders)}


def packed(texts: dict[str, str]) -> bytes:
    """A tar file; the same texts give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in texts.items():
            content = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def read(path: Path) -> dict[str, str]:
    """What an archive holds; nothing where there is none, or where it is damaged, which is said."""
    found: dict[str, str] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    found[member.name] = file.read().decode()
    except FileNotFoundError:
        return {}
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        logger.warning("%s is damaged (%s) and counts as missing", path, error)
        return {}
    return found


def unpack(folder: Path, results: Path) -> list[Path]:
    """Write what the archives in `folder` hold into a results folder for each stage below `results`."""
    written = []
    for path in sorted(folder.glob("*.tar")):
        files = {name: text for name, text in read(path).items() if RESULT.fullmatch(name)}
        for name, text in files.items():
            target = results / path.stem / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        if files:
            written.append(results / path.stem)
    return written
