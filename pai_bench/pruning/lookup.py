"""From a text to a criterion: a registered name, or a class in a file."""

import dataclasses
import functools
import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from pai_bench import spec
from pai_bench.errors import UserError, unknown
from pai_bench.pruning.criterion import Criterion
from pai_bench.registry import CRITERIA


def get_criterion(name: str | Criterion, **options: Any) -> Criterion:
    """The criterion called ``NAME[:OPTION=VALUE]...`` or ``./file.py:ClassName[:OPTION=VALUE]...``.

    Options may also be given as keywords. A `Criterion` is returned as it is, or with `options` replaced.
    """
    if isinstance(name, Criterion):
        return dataclasses.replace(name, **options)
    if not isinstance(name, str):
        raise UserError(f"a criterion is a name or an instance of Criterion, not {name!r}")
    file, dot_py, rest = name.partition(".py:")
    if dot_py:
        name, given = spec.parse(rest)
        cls = load_class(Path(file + ".py").resolve(), name)
    else:
        name, given = spec.parse(name)
        cls = CRITERIA.find(name)[0].target
    made = spec.build(cls, given | options, name)
    assert isinstance(made, Criterion)
    return made


@functools.cache
def load_class(path: Path, name: str) -> type[Criterion]:
    """The criterion class `name` of the Python file `path`, which need not be installed."""
    if not path.is_file():
        raise UserError(f"no file {path.name} to take the criterion {name!r} from")
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()[:8]
    module_name = f"_pai_bench_{path.stem}_{digest}"
    if module_name not in sys.modules:
        module_spec = importlib.util.spec_from_file_location(module_name, path)
        assert module_spec is not None
        assert module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[module_name] = module
        try:
            module_spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path.name} does not load: {type(error).__name__}: {error}") from error
    classes = {
        key: value
        for key, value in vars(sys.modules[module_name]).items()
        if isinstance(value, type) and issubclass(value, Criterion) and value.__module__ == module_name
    }
    if (cls := classes.get(name)) is None:
        raise unknown(f"criterion class in {path.name}", name, classes)
    # the text of the file belongs to the identity of what it scores
    cls.name, cls.source = f"{cls.name or name}@{digest}", cls.source or path.name
    return cls
