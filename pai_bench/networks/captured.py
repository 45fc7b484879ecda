"""Functions in a network that refer to its parts: in a copy of it, they have to refer to the copies of these parts.

Examples are hooks, and a function that replaces the ``forward`` of a layer. ``deepcopy`` does not copy functions, so
that they would still use the weights of the original.
"""

import functools
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from pai_bench.support.torch_internals import REGISTRIES


def rebind(modules: Iterable[nn.Module], copies: Mapping[int, Any]) -> None:
    """Let the functions in copied `modules` refer to `copies`, given by the `id` of their originals."""
    done: dict[object, Any] = {}
    for module in modules:
        for name, value in list(vars(module).items()):
            if name not in REGISTRIES and is_holder(value):
                vars(module)[name] = rebound(value, copies, done)


def is_holder(value: object) -> bool:
    """Whether a value may be, or contain, a function that refers to something."""
    return isinstance(value, (FunctionType, MethodType, functools.partial)) or (
        isinstance(value, (dict, list, tuple)) and len(value) > 0
    )


def rebound(value: Any, copies: Mapping[int, Any], done: dict[object, Any]) -> Any:
    """The value that replaces `value` in a copied network; `done` caches those of other values."""
    if isinstance(value, (nn.Module, Tensor)):
        return copies.get(id(value), value)
    if not is_holder(value):
        return value
    if id(value) not in done:
        done[id(value)] = value  # for a function that refers to itself
        done[id(value)] = remade(value, copies, done)
    return done[id(value)]


def remade(value: Any, copies: Mapping[int, Any], done: dict[object, Any]) -> Any:
    """`value`, or a new one of its type, if it refers to something that has a copy."""
    if isinstance(value, FunctionType):
        return function(value, copies, done)
    if isinstance(value, MethodType):
        owner = rebound(value.__self__, copies, done)
        return value if owner is value.__self__ else MethodType(value.__func__, owner)
    if isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
        func, args, keywords = (rebound(part, copies, done) for part in parts)
        unchanged = func is value.func and args is value.args and keywords is value.keywords
        return value if unchanged else functools.partial(func, *args, **keywords)
    if isinstance(value, dict):
        changed = {key: new for key, part in value.items() if (new := rebound(part, copies, done)) is not part}
        return type(value)({**value, **changed}) if changed and type(value) in (dict, OrderedDict) else value
    parts = [rebound(part, copies, done) for part in value]
    unchanged = all(new is part for new, part in zip(parts, value, strict=True))
    return value if unchanged or type(value) not in (list, tuple) else type(value)(parts)


def function(value: FunctionType, copies: Mapping[int, Any], done: dict[object, Any]) -> FunctionType:
    """A function, or a new one that refers to copies: in its closure, its default arguments, or by global names."""
    cells = tuple(cell_of(cell, copies, done) for cell in value.__closure__ or ())
    defaults = rebound(value.__defaults__, copies, done)
    keywords = rebound(value.__kwdefaults__, copies, done)
    used = {name: rebound(part, copies, done) for name, part in parts_by_name(value).items()}
    changed = {name: part for name, part in used.items() if part is not value.__globals__[name]}
    if (
        all(new is cell for new, cell in zip(cells, value.__closure__ or (), strict=True))
        and defaults is value.__defaults__
        and keywords is value.__kwdefaults__
        and not changed
    ):
        return value
    calls_itself, names = used.get(value.__name__) is value, value.__globals__
    if changed or calls_itself:  # own global names, for all functions of a file, which refer to each other
        names = done.setdefault(("names of", id(names)), dict(names))
    new_function = FunctionType(value.__code__, names, value.__name__, defaults, cells)
    if names is not value.__globals__:
        names.update(changed | ({value.__name__: new_function} if calls_itself else {}))
    new_function.__kwdefaults__, new_function.__qualname__, new_function.__module__ = (
        keywords,
        value.__qualname__,
        value.__module__,
    )
    vars(new_function).update(vars(value))
    return new_function


def parts_by_name(value: FunctionType) -> dict[str, Any]:
    """Parts of a network that a function uses by global names, as in a notebook, and other functions of its file.

    Containers are left out, since large ones would take long to search.
    """
    parts = {}
    for name in names_in(value.__code__):
        part = value.__globals__.get(name)
        beside = isinstance(part, FunctionType) and part.__globals__ is value.__globals__
        if beside or isinstance(part, (nn.Module, Tensor, MethodType, functools.partial)):
            parts[name] = part
    return parts


def names_in(code: CodeType) -> set[str]:
    """The names that a function uses, and those of the functions inside it."""
    inner = (names_in(part) for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*inner)


def cell_of(cell: CellType, copies: Mapping[int, Any], done: dict[object, Any]) -> CellType:
    """A cell of a closure, or a new one with the copy of its content."""
    try:
        content = cell.cell_contents
    except ValueError:  # empty
        return cell
    new = rebound(content, copies, done)
    return cell if new is content else CellType(new)
