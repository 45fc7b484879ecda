"""Trained networks in a results folder, which other trials begin with."""

import logging
from contextlib import suppress
from pathlib import Path

from pai_bench.results.folder import NETWORKS
from pai_bench.support import infile, outfile
from pai_bench.support.errors import UserError, reason

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"

KEPT = "kept.txt"
"""Name of the file that says that nobody is to remove these networks."""

WHY = """\
`pai-bench run --keep-networks` has kept networks here: no command removes any while this file is there.
"""


class NetworkFolder:
    """The networks in the results folder `results`, by name."""

    def __init__(self, results: Path) -> None:
        self.path = results / NETWORKS

    def path_of(self, name: str) -> Path:
        """The file of a network."""
        return self.path / f"{name}{SUFFIX}"

    def write(self, name: str, content: bytes) -> None:
        """Keep a network, whole or not at all; a warning if that cannot be done."""
        try:
            self.path.mkdir(exist_ok=True)
            outfile.write_whole(self.path_of(name), content)
        except OSError as error:
            logger.warning("network %s cannot be kept in %s (%s)", name, self.path, reason(error))

    def keep_all(self) -> None:
        """Let no network of this folder be removed from now on; a warning if that cannot be written down."""
        try:
            self.path.mkdir(exist_ok=True)
            outfile.write_whole(self.path / KEPT, WHY.encode())
        except OSError as error:
            logger.warning("%s cannot be written (%s): other commands may remove networks", self.path, reason(error))

    def read(self, name: str) -> bytes | None:
        """The content of a network's file, if there is one; UserError if it cannot be read."""
        path = self.path_of(name)
        try:
            return infile.read(path, path.stat().st_size)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"the network {path} cannot be read ({reason(error)})") from error

    def holds(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self.path_of(name).is_file()

    def remove(self, name: str) -> None:
        """Remove a network that nobody needs any more, and the folder with the last one; not where all are kept."""
        with suppress(OSError):
            if (self.path / KEPT).exists():
                return
            self.path_of(name).unlink()
            self.path.rmdir()
