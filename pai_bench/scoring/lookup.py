"""Criteria by name: a registered name, or a class in a file."""

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

from pai_bench.scoring.criterion import Criterion, refuse_undecorated
from pai_bench.support import files, spec
from pai_bench.support.errors import FROZEN, UserError, unknown
from pai_bench.support.registry import CRITERIA


def get_criterion(name: str | Criterion, **options: Any) -> Criterion:
    """The criterion called ``NAME[:OPTION=VALUE]...`` or ``./file.py:ClassName[:OPTION=VALUE]...``.

    Options may also be given as keywords. A `Criterion` is returned as it is, or with `options` replaced. Raises
    `UserError` for an unknown name, with the nearest known ones, for an unknown option, and for a value of another
    type or out of range.
    """
    if isinstance(name, Criterion):
        refuse_undecorated(type(name))  # its own __init__ may not have called that of the base class
        return dataclasses.replace(name, **options)
    if not isinstance(name, str):
        cure = f"; give {name.__name__}()" if isinstance(name, type) else ""
        raise UserError(f"a criterion is a name or an instance of Criterion, not {name!r}{cure}")
    if (file := files.split(name, "criterion")) is not None:
        name, parsed = spec.parse(file[1])
        cls = load_class(file[0], name)
    else:
        name, parsed = spec.parse(name)
        cls = CRITERIA.find(name)[0].target
    refuse_undecorated(cls)
    made = spec.build(cls, parsed | options, name)
    assert isinstance(made, Criterion)
    return made


def unpickled(place: str, name: str, state: dict[str, Any]) -> Criterion:
    """A criterion of a class in a file, as it was pickled. Raises `UserError` if the class has changed since."""
    file = files.split(place, "criterion")
    assert file is not None
    cls = load_class(*file)
    if cls.name != name:
        raise UserError(f"criterion {name} is another one by now, {cls.name}: its file has changed")
    made = object.__new__(cls)
    vars(made).update(state)
    return made


@functools.cache
def load_class(path: Path, name: str) -> type[Criterion]:
    """The criterion class `name` of the Python file `path`, which need not be installed."""
    module = files.load(path, f"the criterion {name!r}")
    classes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Criterion) and value.__module__ == module.__name__
    }
    if (cls := classes.get(name)) is None:
        if hasattr(module, name):
            cure = f"write class {name}(Criterion) there, and {FROZEN}"
            raise UserError(f"{name!r} in {path.name} is no criterion: {cure}")
        raise unknown(f"criterion class in {path.name}", name, classes)
    # a hash of the code that it depends on is part of the identity of its results; formerly, of the whole file
    label, whole = cls.name.partition("@")[0] or name, hashlib.sha256(path.read_bytes()).hexdigest()[: files.DIGITS]
    cls.name, cls.former_name = f"{label}@{files.digest(path, name)}", f"{label}@{whole}"
    cls.source = cls.source or path.name
    cls.place = f"{path}:{name}"
    return cls
