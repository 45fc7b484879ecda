"""The verb `list`."""

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from pai_bench.cli.console import make_console, print_table
from pai_bench.experiment import recipe
from pai_bench.training.protocol import DEFAULT, DEFAULT_WITH_BATCH_NORM

if TYPE_CHECKING:
    from pai_bench.support.registry import Plugin


def list_plugins(arguments: argparse.Namespace) -> int:
    """``pai-bench list``."""
    console, kind = make_console(), arguments.kind
    with console.status("counting what their networks compute") if kind == "recipes" else nullcontext():
        rows = list(table_of(kind))
    print_table(console, rows, numbers=slice(0), edge=False)
    if kind == "criteria":
        from pai_bench.scoring import Criterion

        common = options(f for f in dataclasses.fields(Criterion) if f.name != "bn")
        console.print(f"every criterion: {common}\nfor example snip:bn=train:micro-batch=32")
    if kind in NOTES:
        console.print(NOTES[kind])
    return 0


def table_of(kind: str) -> Iterator[Sequence[str]]:
    """The table of all plugins of a kind, or of the recipes; the first row is the head."""
    from pai_bench.support.registry import REGISTRIES

    if kind == "recipes":
        yield "name", "what it does", "source", "trials", "arithmetic"
        yield from (recipe_row(recipe.load(name)) for name in recipe.shipped())
        return
    plugins = REGISTRIES[kind].plugins()
    if kind == "protocols":
        yield "name", "what it does", "source"
        yield from ((p.name, p.target.describe(), p.source) for p in plugins)
    elif kind == "criteria":
        yield "name", "score", "schedule", "options", "source"
        yield from map(criterion_row, plugins)
        yield "./file.py:CLASS", "a class in a file of yours", "", "", ""
    elif kind == "models":
        yield "name", "what it is", "source"
        yield from ((plugin_name(p), first_paragraph(p.target), p.source) for p in plugins)
        takes = "which takes input shape and number of classes and returns it"
        yield OWN, f"A network of yours: a function in a file, {takes}.", "a file of yours"
    elif kind == "data":
        yield "name", "what it is", "shape", "classes", "train", "test", "augmentation", "source"
        yield from map(data_row, plugins)
        what = "Data of yours: a function in a file, which returns a DataSet."
        yield OWN, what, "", "", "", "", "", "a file of yours"
    else:
        yield "name", "what it is", "options", "source"
        for p in plugins:
            own_options = options(dataclasses.fields(p.target)) if dataclasses.is_dataclass(p.target) else ""
            yield plugin_name(p), first_paragraph(p.target), own_options, p.source


OWN = "./file.py:FUNCTION"
"""How a function in a file is named."""

NOTES = {
    "data": "images are normalised to mean 0 and deviation 1 of each channel over the training set; the augmentation "
    "is that of published protocols (`pai-bench list protocols`)",
    "schedules": "--schedule NAME:OPTION=VALUE, for all criteria; each has one of its own (`pai-bench list criteria`)",
    "protocols": f"where none is named: {DEFAULT}, or {DEFAULT_WITH_BATCH_NORM} for networks with batch norm",
    "initialisations": "--init NAME, of what is trained; snip:score-init=NAME, of what is scored alone",
    "metrics": "--evaluate NAME:OPTION=VALUE,...; accuracy and loss on the test set are in every record",
    "backends": "--backend NAME, or ./file.py:FUNCTION",
    "recipes": "arithmetic: floating-point operations of the training, at full length; `pai-bench run NAME --dry-run` "
    "measures what it takes here, --budget and --seeds make it shorter",
}
"""What is said below a table."""


def recipe_row(entry: recipe.Recipe) -> list[str]:
    """A recipe with its size, and what its training computes as far as its data sets are known beforehand."""
    from pai_bench.execution.estimate import training_flops

    operations = training_flops(entry)
    shown = "" if operations is None else f"{operations:.2g}"
    return [entry.name, entry.title, entry.source, f"{entry.trials:,}", shown]


def data_row(plugin: "Plugin") -> list[str]:
    """What is known of a data set before it is read."""
    head = [plugin_name(plugin), first_paragraph(plugin.target)]
    if (facts := plugin.facts) is None:
        return [*head, "", "", "", "", "", plugin.source]
    sizes = (facts.classes, facts.train, facts.test)
    return [*head, "x".join(map(str, facts.shape)), *(f"{n:,}" for n in sizes), facts.augmentation, plugin.source]


def plugin_name(plugin: "Plugin") -> str:
    """A name with its aliases; a prefix shows that an argument follows."""
    name = plugin.name + ("NAME" if plugin.name.endswith(":") else "")
    return f"{name} ({', '.join(plugin.aliases)})" if plugin.aliases else name


def criterion_row(plugin: "Plugin") -> list[str]:
    """Facts about a criterion: its formula, schedule, own options and mode of batch norm, and source."""
    from pai_bench.scoring import Criterion

    common = {f.name for f in dataclasses.fields(Criterion)} - ({"bn"} if plugin.target.uses_data else set())
    return [
        plugin.name,
        first_paragraph(plugin.target),
        str(plugin.target.schedule),
        options(f for f in dataclasses.fields(plugin.target) if f.name not in common),
        plugin.source,
    ]


def options(fields: "Iterable[dataclasses.Field[Any]]") -> str:
    """Options as they are written behind a name, with their defaults; ``...`` for one that must be given."""
    defaults = {f.name.replace("_", "-"): "..." if f.default is dataclasses.MISSING else f.default for f in fields}
    return " ".join(f"{name}={default}" for name, default in defaults.items())


def first_paragraph(target: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((getattr(target, "__doc__", "") or "").strip().partition("\n\n")[0].split())
