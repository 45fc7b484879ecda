"""The built-in criteria, one file each. Every module of this package is loaded; a new file is a new criterion."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
