"""The networks: each built for an input shape and a number of classes.

Every module of this package is loaded; a builder decorated with ``@model(NAME, source=...)`` is a new network.
"""

import importlib
import pkgutil

from pai_bench.models.create import create_model, find_model

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["create_model", "find_model"]
