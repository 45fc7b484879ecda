"""Objects in Python files that are not installed, written as ``./file.py:NAME``: loading them, hashing their source."""

import ast
import hashlib
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from pai_bench.support import infile
from pai_bench.support.errors import UserError, reason, unknown
from pai_bench.support.failures import described

MODULE_PREFIX = "_pai_bench_"
"""How the names of modules begin that are such files."""

DYNAMIC = {"globals", "locals", "vars", "eval", "exec", "__import__"}
"""Functions by which code can use anything in its file, without the name of that in the source."""

DIGITS = 8
"""Hexadecimal digits of a source's hash that are part of a name."""

LONGEST = 2**24
"""Bytes that a Python file may have."""


def split(text: str, kind: str) -> tuple[Path, str] | None:
    """The file of ``./file.py:REST`` and the rest; None for a text that names no file. `kind` is what it names."""
    file, dot_py, rest = text.strip().partition(".py:")
    if (rest == "" and dot_py) or (file.endswith(".py") and ":" not in file):
        raise UserError(f"{text} is a file; name the {kind} in it: {file.removesuffix('.py')}.py:NAME")
    if "\0" in text:
        raise UserError(f"{text!r} is no {kind}: no name may hold a NUL character")
    return (Path(os.path.realpath(os.path.expanduser(file + ".py"))), rest) if dot_py else None


def load(path: Path, what: str) -> ModuleType:
    """The Python file `path` as a module, loaded once for each of its texts; errors name `what` is looked for in it."""
    try:
        source = infile.read(path, LONGEST)
    except FileNotFoundError:
        raise UserError(f"no file {path.name} to take {what} from") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read ({reason(error)})") from error
    name = f"{MODULE_PREFIX}{path.stem}_{hashlib.sha256(source).hexdigest()[:DIGITS]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            with importing_from(path.parent), current_folder_kept():
                spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path.name} does not load: {described(error)}") from error
    return sys.modules[name]


@contextmanager
def importing_from(folder: Path) -> Iterator[None]:
    """A block whose imports look in `folder` first; imports after it, in functions that run later, look there last."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # what is imported may change the path
            sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


@contextmanager
def current_folder_kept() -> Iterator[None]:
    """A block after which relative paths, those of the command line, mean what they meant before."""
    before = ""
    with suppress(FileNotFoundError):  # it has been removed
        before = os.getcwd()
    try:
        yield
    finally:
        if before:
            os.chdir(before)


def function(path: Path, name: str, kind: str) -> Callable[..., Any]:
    """The function `name`, which makes a `kind`, of the Python file `path`."""
    module = load(path, f"the {kind} {name!r}")
    if name not in vars(module):
        defined = {key: v for key, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
        raise unknown(f"function in {path.name}", name, {key for key, value in defined.items() if callable(value)})
    return checked_function(getattr(module, name), f"{name} in {path.name}", kind)


def checked_function(value: object, label: str, kind: str) -> Callable[..., Any]:
    """`value` if it is a function, and not a network, which can be called, too; or UserError."""
    if callable(value) and not any(base.__module__.startswith("torch.nn.") for base in type(value).__mro__):
        return value
    raise UserError(f"{label} is no function that makes a {kind}, but of type {type(value).__name__}")


def version_of(function: object, default: int = 1) -> int:
    """The attribute ``version`` of a function in a file, which its author raises when what it makes changes."""
    version = getattr(function, "version", default)
    if not isinstance(version, int):
        name = getattr(function, "__name__", "the function")
        raise UserError(f"the attribute version of {name} is {version!r}, not a whole number")
    return version


def digest(path: Path, name: str) -> str:
    """A hash of the source that decides what `name` in the Python file `path` is.

    That is its own definition, those that it uses, directly or not, and the files beside `path` that these import.
    """
    text = "".join(f"{part}\0" for part in sources(path, path.parent, {name}, set()))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def sources(path: Path, root: Path, names: set[str] | None, seen: set[Path]) -> Iterator[str]:
    """The statements of a file that decide what some names in it are (None: all), and those of its imports."""
    seen.add(path)
    try:
        text = importlib.util.decode_source(path.read_bytes())
        statements, lines = ast.parse(text).body, text.split("\n")
    except (OSError, ValueError, SyntaxError) as error:  # of a file that a function imports when it runs
        raise UserError(f"{path.name} cannot be read: {described(error)}") from error
    if names is not None:
        statements = deciding(statements, names)
    for statement in statements:
        first = min(node.lineno for node in [statement, *getattr(statement, "decorator_list", [])])
        yield "\n".join(lines[first - 1 : statement.end_lineno])
    for imported in imported_files({root, path.parent}, statements):
        if imported not in seen:
            yield from sources(imported, root, None, seen)


def deciding(statements: list[ast.stmt], names: set[str]) -> list[ast.stmt]:
    """Those of a module's `statements` that may decide what some `names` in it are.

    They bind one of these names, or one that such a statement uses; or they bind no name, and may do anything; or their
    decorator, which may register them somewhere, is defined by such a statement.
    """
    bound = {statement: binds(statement) for statement in statements}
    local = {
        name for node, defined in bound.items() if not isinstance(node, ast.Import | ast.ImportFrom) for name in defined
    }
    used = set(names)
    while True:
        chosen = [
            statement
            for statement in statements
            if bound[statement] & used
            or (not bound[statement] and not has_no_effect(statement))
            or names_in(getattr(statement, "decorator_list", [])) & local & used
        ]
        if used & DYNAMIC:
            return statements
        if used >= (more := names_in(chosen)):
            return chosen
        used |= more


def binds(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module defines or changes; none if that may not be all it does."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names} - {"*"}
    if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {name for target in targets for name in base_names(target)}
    if isinstance(statement, (ast.If, ast.Try)):
        inner = [node for node in ast.walk(statement) if isinstance(node, ast.stmt) and node is not statement]
        parts = [binds(node) for node in inner if not isinstance(node, ast.Pass)]
        return set().union(*parts) if all(parts) else set()
    return set()


def base_names(target: ast.expr) -> set[str]:
    """The names at the beginning of the targets of an assignment: ``a`` of ``a.b[c]``."""
    if isinstance(target, ast.Name):
        return {target.id}
    if isinstance(target, (ast.Attribute, ast.Subscript, ast.Starred)):
        return base_names(target.value)
    return set().union(*(base_names(part) for part in ast.iter_child_nodes(target) if isinstance(part, ast.expr)))


def has_no_effect(statement: ast.stmt) -> bool:
    """Whether a statement does nothing in a module that is imported: a docstring, or ``if __name__ == "__main__"``."""
    docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return docstring or (isinstance(statement, ast.If) and "__name__" in names_in([statement.test]))


def names_in(nodes: Iterable[ast.AST]) -> set[str]:
    """All names in some parts of a program."""
    return {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def imported_files(folders: Iterable[Path], statements: Iterable[ast.stmt]) -> list[Path]:
    """The files in some folders that some statements import, sorted."""
    modules = set[str]()
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            package = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            modules |= {package, *(f"{package}.{alias.name}".strip(".") for alias in node.names)}
    files = set[Path]()
    for folder, module in itertools.product(folders, modules - {""}):
        inner = folder / module.replace(".", "/")
        for place in (inner, *inner.parents[: module.count(".")]):  # a module, and the packages around it
            files |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    return sorted(files)
