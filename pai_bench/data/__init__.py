"""Data sets as tensors. Every module of this package is loaded; ``@data_set(NAME, source=...)`` adds a data set."""

import importlib
import pkgutil

from pai_bench.data.dataset import DataSet, Split
from pai_bench.data.load import load_data

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["DataSet", "Split", "load_data"]
