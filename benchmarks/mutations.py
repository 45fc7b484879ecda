"""Do the tests notice when the code is wrong? Small random changes of the code, one at a time, and who catches them.

    python -m benchmarks.mutations --number 150 --seed 1 --out mutations.md

Each change is made in a copy of the project, where those tests run, fastest first, that reach the function that it is
in (`benchmarks.reached`, written once to ``--reached``), and those of the test file named like the module; ``--whole``
lets all other default tests run where these find nothing. Tests that take several times as long as usual have found
the change, too. What survives is a gap in the tests, or changes nothing that could be seen: that is for a reader to
say.
"""

import argparse
import ast
import compileall
import fnmatch
import gc
import json
import multiprocessing
import os
import queue
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest

from benchmarks.reached import FOLDERS, Reached

ROOT = Path(__file__).parents[1]
LEFT_OUT = ("results", "reports", "build", "dist")
"""Folders at the top, beside those that are hidden."""

PATIENCE = 60
"""Seconds that a test may take beyond five times its usual ones; with more, it has found the change."""

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add}


@dataclass(frozen=True)
class Change:
    """Bytes `start` to `end` of a `file` become `new`; `function` is the qualified name of the one that they are in."""

    file: str
    line: int
    start: int
    end: int
    old: str
    new: str
    function: str

    def apply(self, source: bytes) -> bytes:
        """The source with the change made."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    def __str__(self) -> str:
        return " ".join(f"{self.old} -> {self.new}".split())


def changed(node: ast.AST) -> Iterator[str]:
    """What could stand in the place of a node. Messages, which are strings, stay as they are."""
    match node:
        case ast.Compare(left, [op], comparators):
            yield from (ast.unparse(ast.Compare(left, [other()], comparators)) for other in COMPARED[type(op)])
        case ast.BinOp(left, op, right) if type(op) in OPERATORS and not (is_text(left) or is_text(right)):
            yield ast.unparse(ast.BinOp(left, OPERATORS[type(op)](), right))
        case ast.BoolOp(op, values):
            yield ast.unparse(ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values))
        case ast.UnaryOp(ast.Not(), operand):
            yield f"({ast.unparse(operand)})"
        case ast.UnaryOp(ast.USub(), operand):
            yield f"+{ast.unparse(operand)}"
        case ast.Constant(bool() as value):
            yield str(not value)
        case ast.Constant(int() | float() as value):
            yield repr(value + 1 if value + 1 != value else 2 * value)
        case (
            ast.Expr(ast.Call())
            | ast.AugAssign()
            | ast.Assign([ast.Attribute() | ast.Subscript()])
            | ast.Raise()
            | ast.Continue()
        ):
            yield "pass"


def is_text(node: ast.AST) -> bool:
    """Whether it is a string, which nobody would subtract."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def is_idle(node: ast.AST) -> bool:
    """Whether nothing depends on it: ``strict`` of zip, against mistakes that are not there; imports for types."""
    if isinstance(node, ast.keyword):
        return node.arg == "strict"
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def changes(file: str, source: bytes) -> Iterator[Change]:
    """Every change of a file, in order."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def at(node: ast.AST, function: str, texts: Iterator[str]) -> Iterator[Change]:
        if (line := getattr(node, "lineno", None)) is None:
            return
        start = lines[line - 1] + node.col_offset  # type: ignore[attr-defined]
        end = lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        for new in texts:
            yield Change(file, line, start, end, source[start:end].decode(), new, function)

    def visit(node: ast.AST, function: str, scope: str) -> Iterator[Change]:
        if is_idle(node):
            return
        yield from at(node, function, changed(node))
        if isinstance(node, (ast.If, ast.While, ast.IfExp)) and not isinstance(node.test, (ast.Compare, ast.UnaryOp)):
            yield from at(node.test, function, iter([f"not ({ast.unparse(node.test)})"]))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = f"{scope}{node.name}"
            inner = (name, f"{name}.<locals>.") if isinstance(node, ast.FunctionDef) else (function, f"{name}.")
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns") or isinstance(value, ast.JoinedStr):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                    within = inner if field == "body" and isinstance(node, (ast.FunctionDef, ast.ClassDef)) else None
                    yield from visit(child, *(within or (function, scope)))

    yield from visit(ast.parse(source), "", "")


def draw(root: Path, number: int, seed: int, pattern: str = "*") -> list[Change]:
    """Some of all changes of the files, by chance, by file and line."""
    files = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    names = [path.relative_to(root).as_posix() for path in files]
    every = [
        change
        for name in names
        if fnmatch.fnmatch(name, pattern)
        for change in changes(name, (root / name).read_bytes())
    ]
    drawn = random.Random(seed).sample(range(len(every)), min(number, len(every)))
    return [every[place] for place in sorted(drawn)]


def concerned_by(change: Change, tree: Path, reached: Reached) -> list[str]:
    """The tests that reach the function, and those of the file that is named like the module; fastest first.

    Of what is in no function, or in one that runs when its module is imported or in another process, those that reach
    anything of its file, or whose file imports it, or all modules.
    """
    place, path = f"{change.file}:{change.function}", Path(change.file)
    package, module = ".".join(path.parent.parts).removeprefix("criteria."), path.stem
    imports = re.compile(rf"\b{package}\.{module}\b|\bfrom {package} import .*\b{module}\b")
    called = bool(change.function) and any(place in facts["functions"] for facts in reached.values())

    @cache
    def of_module(file: str) -> bool:
        text = (tree / file).read_text(encoding="utf-8")
        imported = "walk_packages" in text or bool(imports.search(text))
        return Path(file).name == f"test_{module}.py" or (not called and imported)

    found = [
        test
        for test, facts in reached.items()
        if (place in facts["functions"] if called else any(f.startswith(f"{change.file}:") for f in facts["functions"]))
        or of_module(test.partition("::")[0])
    ]
    return sorted(found, key=lambda test: float(reached[test]["seconds"]))


SERVER = multiprocessing.get_context("forkserver")
"""A process that has imported what others wrote, and is copied for each run of tests: no run waits for torch."""
IMPORTED = (
    "torch.func",
    "torchvision",
    "pandas",
    "scipy.stats",
    "matplotlib.figure",
    "rich.progress",
    "hypothesis.strategies",
)
ASKING = threading.Lock()
"""Starting a process asks all others for their exit codes, which each of them says once."""

RUNNING: set[BaseProcess] = set()
"""Tests that run now, in sessions of their own: no signal to this process reaches them."""


def kill(process: BaseProcess) -> None:
    """End tests, and what they have started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()  # where its session has not begun


def run_pytest(tree: Path, arguments: Sequence[str], output: Path) -> None:
    """Run pytest in a tree, in a session of its own, and end this process with its exit code."""
    os.setsid()
    gc.freeze()  # what was imported is never garbage, and pytest collects several times
    with output.open("w", encoding="utf-8") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.chdir(tree)
    path = [str(tree), str(tree / "criteria")]
    os.environ |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True  # what is compiled of one change may look as new as the next one
    sys.path[:0] = path
    sys.modules["__main__"] = import_module("pytest.__main__")  # as in `python -m pytest`, for workers of tests
    imported = "ignore::pytest.PytestAssertRewriteWarning"  # of hypothesis, a plugin of pytest
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", "--tb=no", "-W", imported, *arguments]))


def run_tests(tree: Path, arguments: Sequence[str], limit: float | None = None) -> tuple[int | None, str]:
    """The exit code of pytest in a tree, None where it takes longer than the limit, and the last lines that it says."""
    output = tree.with_suffix(".log")
    process = SERVER.Process(target=run_pytest, args=(tree, arguments, output))
    with ASKING:
        process.start()
    RUNNING.add(process)
    try:
        if not (ended := wait([process.sentinel], limit)):
            kill(process)
        with ASKING:
            process.join()
    finally:
        RUNNING.discard(process)
    return process.exitcode if ended else None, output.read_text(encoding="utf-8", errors="replace")[-2000:]


def judge(change: Change, tree: Path, reached: Reached, *, whole: bool = False) -> str:
    """The test that catches a change in a tree; empty where it survives. The tree is left as it was."""
    file = tree / change.file
    source = file.read_bytes()
    concerned = concerned_by(change, tree, reached)
    others = [test for test in reached if test not in set(concerned)] if whole else []
    file.write_bytes(change.apply(source))
    try:
        for tests in filter(None, (concerned, others)):
            seconds = [float(reached[test]["seconds"]) for test in tests]
            longest = (
                "-o",
                f"faulthandler_timeout={PATIENCE + 5 * max(seconds)}",
                "-o",
                "faulthandler_exit_on_timeout=true",
            )
            code, said = run_tests(tree, ["-x", *longest, *tests], limit=PATIENCE + 5 * sum(seconds))
            if code is None or "Timeout (" in said:
                return "time limit"
            if code:
                failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
                return failed[0].partition(" ")[2].partition(" - ")[0] if failed else "nothing can be imported"
    finally:
        file.write_bytes(source)
    return ""


def check_reached(path: Path, reached: Reached, tree: Path) -> None:
    """End with a word if what a file holds is of tests that are not there any more, which would catch every change."""
    if run_tests(tree, ["--collect-only", *reached])[0]:
        raise SystemExit(f"{path} names tests that are not in this project: remove it, and it is made again")


def copied(to: str) -> Path:
    """A copy of the project, whose compiled files hold whatever the clock says."""
    ignored, at_top = (shutil.ignore_patterns(*patterns) for patterns in ((".*", "__pycache__"), LEFT_OUT))
    tree = Path(to) / "tree"
    shutil.copytree(
        ROOT, tree, ignore=lambda at, names: ignored(at, names) | (at_top(at, names) if Path(at) == ROOT else set())
    )
    for folder in FOLDERS:
        compileall.compile_dir(tree / folder, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return tree


def table(rows: Sequence[tuple[Change, str]]) -> str:
    """What was changed and who has caught it, survivors first."""
    survived = sum(not caught for _, caught in rows)
    lines = [f"{len(rows)} changes: {len(rows) - survived} caught, {survived} survived", ""]
    lines += ["| file | line | change | caught by |", "| --- | ---: | --- | --- |"]
    for change, caught in sorted(rows, key=lambda row: (bool(row[1]), row[0].file, row[0].line)):
        text = str(change).replace("|", "\\|")
        lines.append(f"| {change.file} | {change.line} | `{text}` | {caught or '**survived**'} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.mutations", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="which changes are drawn (default: 0)")
    parser.add_argument("--number", type=int, default=150, help="how many changes (default: 150)")
    parser.add_argument("--files", metavar="PATTERN", default="*", help="only of these, such as pai_bench/results/*")
    parser.add_argument("--jobs", type=int, default=1, help="how many changes are tried at once (default: 1)")
    parser.add_argument("--whole", action="store_true", help="try all default tests before a change counts as survived")
    parser.add_argument("--reached", type=Path, default=Path("reached.json"), help="made by a first run if missing")
    parser.add_argument("--out", type=Path, help="where the table goes (default: standard output)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as an interrupt
    os.environ["OMP_NUM_THREADS"] = "1"
    SERVER.set_forkserver_preload(["__main__", *IMPORTED])
    drawn = draw(ROOT, options.number, options.seed, options.files)
    if not options.reached.is_file():
        with tempfile.TemporaryDirectory() as folder:
            print("a first run, without changes", file=sys.stderr)
            run_tests(copied(folder), ["-p", "benchmarks.reached", "--reached", str(options.reached.absolute())])
    reached: Reached = json.loads(options.reached.read_text(encoding="utf-8"))
    trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
    rows: list[tuple[Change, str]] = []

    def tried(change: Change) -> tuple[Change, str]:
        tree = trees.get()
        try:
            return change, judge(change, tree, reached, whole=options.whole)
        finally:
            trees.put(tree)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        for place in range(options.jobs):
            trees.put(tree := copied(f"{folder}/{place}"))
        check_reached(options.reached, reached, tree)
        start = time.monotonic()
        try:
            for future in as_completed([pool.submit(tried, change) for change in drawn]):
                change, caught = future.result()
                rows.append((change, caught))
                left = (time.monotonic() - start) / len(rows) * (len(drawn) - len(rows)) / 60
                said = f"{caught or 'SURVIVED'}: {change.file}:{change.line}: {change}"
                print(f"{len(rows)} of {len(drawn)}, {left:.0f} min left: {said}", file=sys.stderr)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in [*RUNNING]:
                kill(process)
            raise
    if options.out is None:
        print(table(rows))
    else:
        options.out.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
