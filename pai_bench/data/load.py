"""From a name to a data set, and where data files are looked for."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pai_bench.data.dataset import DataSet, Split
from pai_bench.errors import UserError
from pai_bench.registry import DATA

logger = logging.getLogger(__name__)

Loader = Callable[[Path | None], DataSet]
"""A function of the user's data directory (None: not given) that returns the data set."""


def load_data(name: str, *, data_dir: str | Path | None = None) -> DataSet:
    """The data set called `name`.

    Files are looked for in `data_dir`; without it, in the directory that ``PAI_BENCH_DATA`` names; without that, in the
    user's cache. What is not there is downloaded to the same place, if there is internet.
    """
    given = data_dir or os.environ.get("PAI_BENCH_DATA")
    if given and not Path(given).is_dir():
        raise UserError(f"data directory {given} does not exist")
    plugin, argument = DATA.find(name)
    loader: Loader = plugin.target(argument) if argument else plugin.target
    return loader(Path(given) if given else None)


def cache_dir() -> Path:
    """Where downloads and decoded images are kept: ``$XDG_CACHE_HOME/pai-bench``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pai-bench"


def decoded_once(key: str, decode: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors that `decode` makes, kept in the user's cache under `key` from the first time on."""
    path = cache_dir() / "decoded" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    if path.is_file():
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            logger.warning("decoding again: %s is damaged (%s)", path, error)
    tensors = decode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        save_file(tensors, beside)
        beside.replace(path)
    except OSError as error:
        logger.warning("decoded images are not kept for the next time: %s", error)
    return tensors


def as_data_set(tensors: dict[str, torch.Tensor], *, name: str, num_classes: int, label: str) -> DataSet:
    """A `DataSet` from the four tensors that the decoders make."""
    train, test = (Split(tensors[f"{p}_inputs"], tensors[f"{p}_targets"]) for p in ("train", "test"))
    return DataSet(name, train, test, num_classes=num_classes, label=label)
