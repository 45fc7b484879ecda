"""Which package imports which, read from the source; and which modules an import does not load."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
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
    """(file, imported module) for every import statement in a package, also inside functions."""
    root = root_of(package)
    target = root / room
    files = [target.with_suffix(".py")] if target.with_suffix(".py").is_file() else sorted(target.rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file.name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from ((file.name, module) for module in from_package(node))


def from_package(node: ast.ImportFrom) -> Iterator[str]:
    """The modules that ``from MODULE import NAME, ...`` imports: submodules, or MODULE itself."""
    assert node.module is not None
    package, *inside = node.module.split(".")
    folder = root_of(package).joinpath(*inside) if ours(package) else Path()
    names = [alias.name for alias in node.names]
    inner = [name for name in names if ours(package) and (folder / f"{name}.py").is_file()]
    yield from (f"{node.module}.{name}" for name in inner)
    if len(inner) < len(names):
        yield node.module


def ours(module: str) -> bool:
    return module.split(".")[0] in ("pai_bench", "pai_criteria")


PRUNING = ("pruning", "scoring", "groups", "graph", "masks", "networks", "support")
"""The packages that make a mask; each may import those after it."""


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("support", ("support",)),
        ("models", ("models", "support")),
        ("data", ("data", "support")),
        ("networks", ("networks", "support")),
        ("masks", ("masks", "networks", "support")),
        ("graph", ("graph", "masks", "networks", "support")),
        ("groups", ("groups", "graph", "masks", "networks", "support")),
        ("scoring", ("scoring", "groups", "graph", "masks", "networks", "support")),
        ("pruning", PRUNING),
        ("training", ("training", "data", "masks.application", "support")),
        ("results", ("results", "experiment.settings", "training.protocol", "support")),
        ("attacks", ("attacks", "support")),
        ("evaluation", ("evaluation", "attacks", "results", "training", "data", "support")),
        ("experiment/settings", ("support",)),
        ("experiment/sweep", ("experiment.settings", "training.protocol", "support")),
        ("experiment/trial", ("experiment", "training.protocol", *PRUNING)),
        ("experiment", ("experiment", "evaluation", "attacks", "results", "training", "models", "data", *PRUNING)),
        (
            "execution",
            ("execution", "experiment", "evaluation", "attacks", "results", "training", "models", "data", *PRUNING),
        ),
        # the modules that choose how to run trials use measurements of steps; measure must not import them
        ("execution/measure", ("data", "experiment", "support", "training")),
        ("execution/backend", ("execution.execution_plan", "experiment", "results", "support")),
        ("analyses", ("analyses", "execution.measure", "experiment", "results", "training", *PRUNING)),
        (
            "report",
            (
                *("report", "results", "experiment.settings", "experiment.trial", "training.protocol", "support"),
                *("data.facts", "scoring.criterion"),
            ),
        ),
        ("support/outfile", ("support.errors", "support.infile")),
        ("support/infile", ()),
        ("support/arrays", ("support.errors",)),
        ("support/failures", ("support.errors", "support.environment")),
        ("support/processes", ()),
        ("support/parallel", ("support.processes",)),
        ("support/precision", ("support.torch_internals",)),
        ("support/torch_internals", ()),
        ("support/networks", ()),
        ("support/registry", ("support.errors", "support.failures", "support.files")),
        ("support/files", ("support.errors", "support.failures", "support.infile")),
        ("support/spec", ("support.errors",)),
    ],
)
def test_a_package_imports_only_what_is_allowed(room: str, allowed: tuple[str, ...]) -> None:
    prefixes = tuple(f"pai_bench.{name}." for name in allowed)
    for file, module in imports("pai_bench", room):
        if ours(module) and module != "pai_bench":
            assert f"{module}.".startswith(prefixes), f"{file} of {room} imports {module}"


def test_criteria_import_only_the_contract() -> None:
    for file, module in imports("pai_criteria"):
        if ours(module):
            assert module in ("pai_bench", "pai_bench.masks", "pai_bench.scoring"), f"{file} imports {module}"


@pytest.mark.parametrize(
    "room",
    [
        *("report", "results", "training/protocol"),
        *("experiment/settings", "experiment/sweep", "experiment/trial", "experiment/recipe"),
        *(f"support/{name}" for name in ("identity", "registry", "failures", "processes", "parallel", "spec")),
    ],
)
def test_packages_without_torch(room: str) -> None:
    for file, module in imports("pai_bench", room):
        assert module.split(".")[0] not in ("torch", "torchvision"), f"{file} imports {module}"


def at_import(body: list[ast.stmt]) -> Iterator[str]:
    """The modules that the statements of a module import when it is imported."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from from_package(node)
        elif isinstance(node, (ast.Try, ast.With, ast.If)):  # If: also under TYPE_CHECKING
            yield from at_import(node.body)


def test_imports_have_no_cycles() -> None:
    root = root_of("pai_bench")
    files = {
        ".".join(("pai_bench", *file.relative_to(root).with_suffix("").parts)): file for file in root.rglob("*.py")
    }
    modules = {name.removesuffix(".__init__"): file for name, file in files.items()}
    graph = {
        name: {module for module in at_import(ast.parse(file.read_text(encoding="utf-8")).body) if module in modules}
        - {"pai_bench", name}
        for name, file in modules.items()
    }
    assert sum(map(len, graph.values())) > 500
    TopologicalSorter(graph).prepare()  # raises an error for a cycle


HEAVY = "torch torchvision numpy pandas scipy matplotlib sklearn rich msgspec"


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import pai_bench", HEAVY),
        ("import pai_bench.cli.entry; pai_bench.cli.entry.parser().format_help()", HEAVY),
        ("import pai_bench.report.page", "torch torchvision sklearn"),  # torch is loaded later, with the criteria
    ],
)
def test_importing_is_light(statement: str, heavy: str) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {heavy.split()} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_file_shadows_a_standard_module() -> None:
    for path in root_of("pai_bench").rglob("*.py"):
        if path.parent == root_of("pai_bench"):
            assert path.stem not in sys.stdlib_module_names


INTERNALS = "torch_internals.py"
"""The only file that uses private names of torch."""

BY_CRITERIA = {"_base", "_forward_hooks", "_forward_pre_hooks"}
"""Private attributes that criteria use themselves, because they import only what plug-ins may import."""


def private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def private_names_of_torch(tree: ast.AST) -> Iterator[str]:
    """Private names that a file imports from torch, or reads as attributes of its imports."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [(alias.name, alias.asname) for alias in node.names if alias.name.split(".")[0] == "torch"]
            aliases |= {asname or "torch": name if asname else "torch" for name, asname in modules}
            yield from (name for name, _ in modules if private(name))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            aliases |= names
            yield from filter(private, names.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, *parts = dotted(node)
            if root in aliases and private(path := ".".join(parts)):
                yield f"{aliases[root]}.{path}"
        elif isinstance(node, ast.Constant) and re.fullmatch(r"torch(\.\w+)*\._[a-zA-Z]\w*", str(node.value)):
            yield str(node.value)


def dotted(node: ast.expr) -> list[str]:
    """The names in a chain of attributes; the first is empty if the chain does not start with a name."""
    if isinstance(node, ast.Attribute):
        return [*dotted(node.value), node.attr]
    return [node.id if isinstance(node, ast.Name) else ""]


def private_attributes() -> set[str]:
    """The private attributes of torch's modules, tensors, storages and operations."""
    import torch

    x, operation = torch.ones(1), torch.ops.aten.add.Tensor
    objects = (torch.nn.GRU(1, 1), torch.nn.Parameter(x), x.untyped_storage(), operation)
    return {name for instance in objects for name in dir(instance) if private(name)} | {"_orig_mod"}


def private_attributes_used(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """The attributes among `known` that a file uses of objects other than ``self``, or names in a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in known:
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.Constant) and node.value in known:
            yield str(node.value)


def test_one_file_uses_private_names_of_torch() -> None:
    known = private_attributes()
    assert {"_parameters", "_backward_hooks", "_version", "_cdata", "_schema", "_flat_weights", "_base"} <= known
    files = [file for package in ("pai_bench", "pai_criteria") for file in root_of(package).rglob("*.py")]
    files += Path(__file__).parent.parent.joinpath("benchmarks").rglob("*.py")
    assert {"engine.py", "synflow.py", INTERNALS} <= {file.name for file in files}
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = set(private_names_of_torch(tree))
        attributes = set(private_attributes_used(tree, known))
        if "pai_criteria" in file.parts:
            attributes -= BY_CRITERIA
        if file.name == INTERNALS:
            assert {"torch._ops.OpOverload", "torch._decomp.get_decompositions"} <= names
        else:
            assert not names | attributes, f"{file} uses {sorted(names | attributes)}: put it into {INTERNALS}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch\ntorch._foreach_mul_", "torch._foreach_mul_"),
        ("import torch.nn as n\nn.modules.conv._ConvNd", "torch.nn.modules.conv._ConvNd"),
        ("from torch.nn import functional as F\nF._pad(1)", "torch.nn.functional._pad"),
        ("from torch._ops import OpOverload", "torch._ops.OpOverload"),
        ("from torch.nn.modules.batchnorm import _BatchNorm as B", "torch.nn.modules.batchnorm._BatchNorm"),
        ("import torch._dynamo", "torch._dynamo"),
        ("'torch._dynamo' in modules", "torch._dynamo"),
        ("import torch\ntorch.__version__", None),
        ("from torch import nn\nnn.Linear.__init__", None),
    ],
)
def test_private_names_are_recognised(source: str, name: str | None) -> None:
    assert list(private_names_of_torch(ast.parse(source))) == ([name] if name else [])
