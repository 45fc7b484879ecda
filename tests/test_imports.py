"""The borders between the rooms, read off the source; and what importing does not import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest


def root_of(package: str) -> Path:
    """The folder of an installed package."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def imports(package: str, room: str = "") -> Iterator[tuple[str, str]]:
    """(file, imported module) for every import statement in a room, wherever it stands."""
    root = root_of(package)
    target = root / room
    files = [target.with_suffix(".py")] if target.with_suffix(".py").is_file() else sorted(target.rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file.name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield file.name, node.module


def ours(module: str) -> bool:
    return module.split(".")[0] in ("pai_bench", "pai_criteria")


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        (
            "pruning",
            (
                "pruning",
                "arrays",
                "registry",
                "errors",
                "failures",
                "spec",
                "randomness",
                "identity",
                "initialise",
                "memory",
                "precision",
                "files",
                "infile",
                "outfile",
            ),
        ),
        (
            "models",
            ("models", "registry", "errors", "failures", "randomness", "initialise", "networks", "files"),
        ),
        ("data", ("data", "arrays", "registry", "errors", "failures", "spec", "randomness", "files")),
        ("training", ("training", "data", "registry", "errors", "memory", "precision")),
        (
            "evaluation",
            *[
                (
                    *("evaluation", "training", "data", "store", "registry", "errors", "failures", "spec"),
                    *("randomness", "precision", "environment"),
                )
            ],
        ),
        (
            "report",
            *[
                (
                    "report",
                    "store",
                    "plan",
                    "errors",
                    "training.protocol",
                    "registry",
                    "parallel",
                    "law",
                    "networks",
                    "data.facts",
                    "pruning.criterion",
                    "infile",
                    "outfile",
                )
            ],
        ),
        ("plan", ("training.protocol", "registry", "errors", "spec", "identity", "networks")),
        ("store", ("store", "training.protocol", "errors", "identity", "networks", "infile", "outfile")),
        # what a step takes is known by those who choose how trials run, and not the other way round
        ("execution/measure", ("data", "plan", "precision", "runner", "timing", "training")),
        ("execution/backend", ("execution.execution_plan", "plan", "registry", "runner", "store")),
        ("outfile", ("errors", "infile")),
        ("infile", ()),
        ("arrays", ("errors",)),
        ("failures", ("errors", "environment")),
        ("processes", ()),
        ("parallel", ("processes",)),
        ("precision", ()),
        ("networks", ()),
        ("registry", ("errors", "failures", "files")),
        ("files", ("errors", "failures", "infile")),
        ("spec", ("errors",)),
    ],
)
def test_a_room_imports_only_its_neighbours(room: str, allowed: tuple[str, ...]) -> None:
    prefixes = tuple(f"pai_bench.{name}" for name in allowed)
    for file, module in imports("pai_bench", room):
        if ours(module) and module != "pai_bench":
            assert module.startswith(prefixes), f"{file} of {room} imports {module}"


def test_criteria_import_only_the_contract() -> None:
    for file, module in imports("pai_criteria"):
        if ours(module):
            assert module in ("pai_bench.pruning", "pai_bench.registry"), f"{file} imports {module}"


@pytest.mark.parametrize(
    "room",
    [
        "identity",
        "report",
        "store",
        "recipe",
        "registry",
        "failures",
        "processes",
        "parallel",
        "training/protocol",
    ],
)
def test_rooms_without_torch(room: str) -> None:
    for file, module in imports("pai_bench", room):
        assert module.split(".")[0] not in ("torch", "torchvision"), f"{file} imports {module}"


HEAVY = "torch torchvision numpy pandas scipy matplotlib sklearn rich msgspec"


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import pai_bench", HEAVY),
        ("import pai_bench.cli; pai_bench.cli.parser().format_help()", HEAVY),
        ("import pai_bench.report.page", "torch torchvision sklearn"),  # which it loads with the criteria that it names
    ],
)
def test_importing_is_light(statement: str, heavy: str) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {heavy.split()} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_no_file_shadows_a_standard_module() -> None:
    for path in root_of("pai_bench").rglob("*.py"):
        if path.parent == root_of("pai_bench"):
            assert path.stem not in sys.stdlib_module_names
