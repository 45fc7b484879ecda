"""From a name to a data set, and where data files are looked for."""

import dataclasses
import hashlib
import inspect
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from pai_bench.data.dataset import DataSet, Split
from pai_bench.support.errors import UserError
from pai_bench.support.failures import described
from pai_bench.support.randomness import random_state
from pai_bench.support.registry import DATA, Plugin

logger = logging.getLogger(__name__)

Loader = Callable[[Path | None], DataSet]
"""A function of the user's data directory (None: not given) that returns the data set."""


def load_data(name: str, *, data_dir: str | Path | None = None) -> DataSet:
    """The data set called `name`, or made by a function in a file, ``./file.py:FUNCTION``.

    Files are looked for in `data_dir`; without it, in the directory that ``PAI_BENCH_DATA`` names; without that, in the
    user's cache. What is not there is downloaded to the same place, if there is internet.
    """
    data_dir = data_dir or os.environ.get("PAI_BENCH_DATA")
    if data_dir and not os.path.isdir(data_dir):
        raise UserError(f"data directory {data_dir} does not exist")
    plugin, argument = DATA.find(name)
    folder = Path(data_dir) if data_dir else None
    if plugin.own:
        return load_own(plugin, folder)
    loader: Loader = plugin.given(argument)
    return loader(folder)


def load_own(plugin: Plugin, folder: Path | None) -> DataSet:
    """What a function of one's own returns. It takes nothing, or the user's data `folder` as ``data_dir``.

    Named with a checksum of the content, which is what results depend on. Random numbers are the same in every process.
    """
    label = f"data set {plugin.name}"
    try:
        takes = "data_dir" in inspect.signature(plugin.target).parameters
        with random_state(0):
            data = plugin.target(data_dir=folder) if takes else plugin.target()
    except UserError:  # of a DataSet, which says which
        raise
    except Exception as error:
        what = "is called with nothing, or with data_dir, and raises"
        raise UserError(f"{label}: the function {what} {described(error)}") from error
    if not isinstance(data, DataSet):
        raise UserError(f"{label}: the function returns {type(data).__name__}, not a DataSet")
    return dataclasses.replace(data, name=f"{data.name}@{data.checksum[:8]}", label=data.label)


def cache_dir() -> Path:
    """Where downloads and decoded images are kept: ``$XDG_CACHE_HOME/pai-bench``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pai-bench"


ARRAYS = {f"{part}_{what}" for part in ("train", "test") for what in ("inputs", "targets")}
"""What a decoded data set consists of."""


class Arrays(dict[str, np.ndarray]):
    """Arrays by name: files in a `folder`, mapped into memory; without one, in memory alone."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self.folder = folder

    def new(self, name: str, shape: tuple[int, ...], dtype: type[np.generic] = np.uint8) -> np.ndarray:
        """A new array."""
        if self.folder is None:
            self[name] = np.empty(shape, dtype)
        else:
            path = self.folder / f"{name}.npy"
            self[name] = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and not the end of the process later
                with path.open("rb+") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return self[name]

    @classmethod
    def read(cls, folder: Path) -> "Arrays":
        """The arrays in the files of a `folder`, mapped into memory; changes are not written."""
        arrays = cls(folder)
        for path in folder.glob("*.npy"):
            arrays[path.stem] = np.load(path, mmap_mode="c")
        if missing := ARRAYS - arrays.keys():
            raise ValueError(f"no {', '.join(sorted(missing))}")
        return arrays


def decoded_once(key: str, decode: Callable[[Arrays], None]) -> Arrays:
    """The arrays that `decode` fills, kept in the user's cache under `key` from the first time on.

    They are mapped into memory: what is larger than that is read from the files as it is needed.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass"))  # names of files may be no UTF-8
    folder = cache_dir() / "decoded" / digest.hexdigest()[:24]
    if folder.is_dir():
        try:
            return Arrays.read(folder)
        except (OSError, ValueError, EOFError) as error:
            logger.warning("decoding again: %s is damaged (%s)", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as private:
            beside = Path(private) / folder.name  # which others may read
            beside.mkdir()
            decode(Arrays(beside))
            with suppress(OSError):  # another process has been faster
                beside.replace(folder)
        return Arrays.read(folder)
    except UserError:
        raise
    except (OSError, ValueError, EOFError) as error:
        logger.warning("decoded images are not kept for the next time: %s", error)
        decode(arrays := Arrays(None))
        return arrays


def as_data_set(arrays: Arrays, *, name: str, num_classes: int, label: str) -> DataSet:
    """A `DataSet` from the four arrays that the decoders make."""
    inputs, targets = (
        [torch.from_numpy(arrays[f"{part}_{role}"]) for part in ("train", "test")] for role in ("inputs", "targets")
    )
    train, test = map(Split, inputs, targets)
    return DataSet(name, train, test, num_classes=num_classes, label=label)
