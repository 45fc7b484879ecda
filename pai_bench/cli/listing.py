"""The verb `list`."""

import argparse
import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pai_bench.cli.console import make_console
from pai_bench.experiment import recipe
from pai_bench.training.protocol import DEFAULT, DEFAULT_WITH_BATCH_NORM

if TYPE_CHECKING:
    from pai_bench.support.registry import Plugin


def list_plugins(given: argparse.Namespace) -> int:
    """``pai-bench list``."""
    from rich.table import Table

    from pai_bench.support import registry

    table, console = Table(show_edge=False), make_console()
    if given.kind == "recipes":
        with console.status("counting what their networks compute"):
            rows = [recipe_row(recipe.load(name)) for name in recipe.shipped()]
        columns = ["name", "what it does", "source", "trials", "arithmetic"]
    elif given.kind == "protocols":
        plugins = registry.PROTOCOLS.plugins()
        rows = [[p.name, p.target.describe(), p.source] for p in plugins]
        columns = ["name", "what it does", "source"]
    elif given.kind == "criteria":
        rows = [criterion_row(plugin) for plugin in registry.CRITERIA.plugins()]
        rows.append(["./file.py:CLASS", "a class in a file of yours", "", "", ""])
        columns = ["name", "score", "schedule", "options", "source"]
    elif given.kind == "models":
        rows = [[plugin_name(p), first_paragraph(p.target), p.source] for p in registry.MODELS.plugins()]
        what = "A network of yours: a function in a file, which takes input shape and number of classes and returns it."
        rows.append([OWN, what, "a file of yours"])
        columns = ["name", "what it is", "source"]
    elif given.kind == "data":
        rows = [data_row(plugin) for plugin in registry.DATA.plugins()]
        rows.append(
            [OWN, "Data of yours: a function in a file, which returns a DataSet.", *[""] * 5, "a file of yours"]
        )
        columns = ["name", "what it is", "shape", "classes", "train", "test", "augmentation", "source"]
    else:
        plugins = registry.REGISTRIES[given.kind].plugins()
        rows = [[plugin_name(p), first_paragraph(p.target), own_options(p.target), p.source] for p in plugins]
        columns = ["name", "what it is", "options", "source"]
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console.print(table)
    if given.kind == "criteria":
        from pai_bench.scoring import Criterion

        every = options(f for f in dataclasses.fields(Criterion) if f.name != "bn")
        console.print(f"every criterion: {every}\nfor example snip:bn=train:micro-batch=32")
    if given.kind in NOTES:
        console.print(NOTES[given.kind])
    return 0


OWN = "./file.py:FUNCTION"
"""How a function in a file is named."""

NOTES = {
    "data": "images are normalised to mean 0 and deviation 1 of each channel over the training set; the augmentation "
    "is that of published protocols (`pai-bench list protocols`)",
    "schedules": "--schedule NAME:OPTION=VALUE, for all criteria; each has one of its own (`pai-bench list criteria`)",
    "protocols": f"where none is named: {DEFAULT}, or {DEFAULT_WITH_BATCH_NORM} for networks with batch norm",
    "initialisations": "--init NAME, of what is trained; snip:score-init=NAME, of what is scored alone",
    "metrics": "from Python, `pai_bench.evaluation`; accuracy and loss on the test set are in every record",
    "backends": "--backend NAME, or ./file.py:FUNCTION",
    "recipes": "arithmetic: floating-point operations of the training, at full length; `pai-bench run NAME --dry-run` "
    "measures what it takes here, --budget and --seeds make it shorter",
}
"""What is said below a table."""


def recipe_row(found: recipe.Recipe) -> list[str]:
    """A recipe with its size, and what its training computes as far as its data sets are known beforehand."""
    from pai_bench.execution.estimate import arithmetic

    work = arithmetic(found)
    return [found.name, found.title, found.source, f"{found.trials:,}", "" if work is None else f"{work:.2g}"]


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
    """Options as they are written behind a criterion's name, with their defaults."""
    return " ".join(f"{f.name.replace('_', '-')}={f.default}" for f in fields)


def own_options(target: Any) -> str:
    """The options of a class that is a dataclass; a function has none."""
    return options(dataclasses.fields(target)) if dataclasses.is_dataclass(target) else ""


def first_paragraph(target: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((getattr(target, "__doc__", "") or "").strip().partition("\n\n")[0].split())
