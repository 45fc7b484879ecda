"""The command line: one function per verb, which parses, calls and prints."""

import argparse
import dataclasses
import difflib
import logging
import re
import shlex
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Union, get_args, get_origin

from pai_bench import __version__, recipe, spec
from pai_bench.errors import UserError
from pai_bench.plan import Sweep

if TYPE_CHECKING:
    from rich.console import Console

    from pai_bench.catalog import Catalog
    from pai_bench.store import Record

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130

RUN_EXAMPLES = """\
examples:
  pai-bench run --criteria snip,random --models lenet,vgg
      the whole comparison on handwritten digits, offline, in a few minutes
  pai-bench run --criteria snip,grasp:temperature=1,synflow --models resnet-20 --data cifar10 --seeds 5
  pai-bench run --criteria ./mine.py:Mine,snip --models torchvision:resnet18 --data folder:pets
  pai-bench run recipe.toml --epochs 5
      a sweep from a file; flags override its keys, which are called like them

What is stored in --out is not run again: the same command goes on where it stopped.
exit codes: 0; 1 a trial failed; 2 a mistake in the request; 130 interrupted"""

EXAMPLES = """\
examples:
  pai-bench run --criteria snip,random --models lenet,vgg      compare, store, report
  pai-bench list criteria                                      what there is
  pai-bench report results -o reports/mine.md                  report again from what is stored
  pai-bench prune --model resnet-20 --data cifar10 --criterion synflow --sparsity 0.98 -o mask.safetensors

`pai-bench VERB --help` explains each."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest flag, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(re.sub(r"^argument \S+: (?=-)", "", message))  # our own messages name the flag already

    def refuse(self, words: list[str]) -> None:
        """An error about arguments that are left over, if there are any."""
        if words:
            known = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(words[0].partition("=")[0], known, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"see `{self.prog} --help`"
            raise UserError(f"unrecognized arguments: {' '.join(words)} ({hint})")


def parser() -> Parser:
    """The parser of all verbs."""
    top = Parser(
        prog="pai-bench",
        description="The referee of pruning at initialisation: which connections to keep before training, by which "
        "criterion, at what sparsity and at what cost.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"pai-bench {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for add in (add_run, add_report, add_prune, add_list):
        add(verbs)
    return top


def add_verb(verbs: Any, name: str, function: Any, help: str, epilog: str | None = None) -> Parser:
    """A verb with the flags that all have."""
    verb: Parser = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    verb.set_defaults(function=function, parser=verb)
    levels = ["debug", "info", "warning", "error"]
    verb.add_argument("--log-level", choices=levels, default="warning", help="how much to log (default: warning)")
    return verb


def add_run(verbs: Any) -> None:
    """``run``: its flags are the fields of `Sweep`."""
    verb = add_verb(verbs, "run", run, "compare criteria: score, prune, train, store, and write a report", RUN_EXAMPLES)
    verb.add_argument("recipe", nargs="?", help="a TOML file, or one of `pai-bench list recipes`")
    for f in dataclasses.fields(Sweep):
        add_key(verb, f.name, f.metadata["help"], f.default)
    verb.add_argument("--out", metavar="DIR", help="results folder (default: results)")
    verb.add_argument("--retry-failed", action="store_true", help="run failed trials again")
    verb.add_argument("--dry-run", action="store_true", help="list the trials and run nothing")
    verb.add_argument("--quick", action="store_true", help="a smoke run: the keys of the recipe `quick` on top")


def add_report(verbs: Any) -> None:
    """``report``."""
    verb = add_verb(verbs, "report", report, "write the markdown report of a results folder; runs nothing")
    verb.add_argument("results", nargs="?", default="results", help="results folder (default: results)")
    verb.add_argument("-o", "--output", metavar="FILE", help="where to (default: report.md in the results folder)")


def add_prune(verbs: Any) -> None:
    """``prune``."""
    verb = add_verb(verbs, "prune", prune, "score one network, freshly initialised, and write its mask")
    verb.add_argument("--model", required=True, help="network; `pai-bench list models` names them")
    verb.add_argument("--criterion", default="snip", help="criterion, as NAME[:OPTION=VALUE]... (default: snip)")
    verb.add_argument("--sparsity", type=float, required=True, help="share of weights to remove, in [0, 1)")
    verb.add_argument("--data", default="digits", help="data set that the score batch comes from (default: digits)")
    verb.add_argument("--seed", type=int, default=0, help="seed of weights and score batch (default: 0)")
    verb.add_argument("-o", "--output", metavar="FILE", default="mask.safetensors", help="default: mask.safetensors")
    shared = ("schedule", "scope", "bn", "score_batch", "score_sampling", "device", "data_dir")
    for f in dataclasses.fields(Sweep):
        if f.name in shared:
            add_key(verb, f.name, f.metadata["help"], f.default)


def add_list(verbs: Any) -> None:
    """``list``."""
    verb = add_verb(verbs, "list", list_plugins, "name the criteria, models, data sets or recipes that there are")
    verb.add_argument("kind", choices=["criteria", "models", "data", "recipes"])


def add_key(verb: Parser, name: str, help: str, default: Any) -> None:
    """The flag of a field of `Sweep`. A flag that is not given leaves no trace, so that a recipe's value stands."""
    flag, to = "--" + name.replace("_", "-"), recipe.KEYS[name]
    if name in recipe.AXES:
        shown = ",".join(map(str, default))

        def axis(text: str) -> tuple[Any, ...]:
            parts = [part.strip() for part in text.split(",")]
            if not all(parts):
                raise argparse.ArgumentTypeError(f"{flag}: the list is empty or has an empty entry")
            return tuple(from_text(part, to, flag) for part in parts)

        verb.add_argument(flag, type=axis, metavar="A,B,...", help=f"{help} (default: {shown})")
        return
    shown = "" if default is None else f" (default: {default})"
    verb.add_argument(
        flag,
        type=lambda text: from_text(text, to, flag),
        metavar=metavar(to),
        help=help + shown.replace("%", "%%"),
    )


def from_text(text: str, to: Any, flag: str) -> Any:
    """A flag's value, or an error that names the flag."""
    try:
        return spec.convert(text, to, flag)
    except UserError as error:
        # argparse passes on only this exception as it is
        raise argparse.ArgumentTypeError(str(error).replace(f"{flag}=", f"{flag} ", 1)) from None


def metavar(to: Any) -> str:
    """How a value of the type `to` is written in a help text."""
    if get_origin(to) is Literal:
        return "|".join(map(str, get_args(to)))
    kinds = get_args(to) if get_origin(to) in (Union, types.UnionType) else (to,)
    return {int: "N", float: "X"}.get(kinds[0], "NAME")


def run(given: argparse.Namespace) -> int:
    """``pai-bench run``."""
    from pai_bench.catalog import resolve
    from pai_bench.report.page import write_report
    from pai_bench.store import Store

    grids = sweeps(given)
    catalogs = [(resolve(sweep), out) for sweep, out in grids]
    console = make_console()
    if getattr(given, "dry_run", False):
        for catalog, out in catalogs:
            print_plan(console, catalog, out)
        return 0
    failed = 0
    for out in dict.fromkeys(out for _, out in catalogs):
        records: list[Record] = []
        for catalog, _ in (pair for pair in catalogs if pair[1] == out):
            records += run_catalog(console, catalog, out, given)
        print_tables(console, records)
        path = write_report(Store(out), Path(out) / "report.md")
        failed += sum(record.status == "failed" for record in records)
        console.print(f"report: {path}", highlight=False)
    if failed:
        console.print(f"{failed} trials failed; --retry-failed runs them again", style="red")
    return FAILED if failed else 0


def sweeps(given: argparse.Namespace) -> list[tuple[Sweep, str]]:
    """The sweeps that a command line asks for, each with its results folder."""
    flags = {key: value for key, value in vars(given).items() if key in recipe.KEYS}
    grids = recipe.load(given.recipe) if "recipe" in given else [{}]
    quick = recipe.load("quick")[0] if "quick" in given else {}
    made = []
    for grid in grids:
        keys = grid | quick | flags
        out = keys.pop("out", "results")
        made.append((Sweep(**keys), out))
    return made


def run_catalog(console: "Console", catalog: "Catalog", out: str, given: argparse.Namespace) -> "list[Record]":
    """Run one sweep with a display; an interrupt says how to go on."""
    from pai_bench.progress import Display
    from pai_bench.runner import run_catalog
    from pai_bench.store import Store

    retry = getattr(given, "retry_failed", False)
    try:
        return run_catalog(catalog, out, retry_failed=retry, listener=Display(console), command=given.command)
    except KeyboardInterrupt:
        stored = {path.stem for path in Store(out, create=True).trials.glob("*.json")}
        done = sum(trial.identity in stored for trial in catalog.trials)
        total = len(catalog.trials)
        console.print(f"interrupted: {done} of {total} trials are stored in {out}; the same command runs the rest")
        raise


def print_plan(console: "Console", catalog: "Catalog", out: str) -> None:
    """The trials of a sweep, and which of them are stored already."""
    stored = {path.stem for path in (Path(out) / "trials").glob("*.json")}
    for trial in catalog.trials:
        mark = "stored" if trial.identity in stored else "to run"
        console.print(f"{mark}  {trial.identity}", highlight=False)
    missing = sum(trial.identity not in stored for trial in catalog.trials)
    console.print(f"{len(catalog.trials)} trials, {missing} to run on {catalog.device}", highlight=False)


def print_tables(console: "Console", records: "list[Record]") -> None:
    """Accuracy by criterion and sparsity, for each network and data set."""
    from rich.table import Table

    from pai_bench.report import tables
    from pai_bench.report.summary import comparisons
    from pai_bench.store import as_frame

    for comparison in comparisons(as_frame(records)):
        head, *body = tables.accuracy(comparison)
        title = f"{comparison.title}: test accuracy in %, mean ± standard deviation, {comparison.seeds} seeds"
        table = Table()
        for i, column in enumerate(head):
            table.add_column(column, justify="right" if i else "left")
        for row in body:
            table.add_row(*row)
        console.print(title, highlight=False, markup=False)
        console.print(table)
        for line in tables.dead_layers(comparison):
            console.print(f"† {line}", highlight=False, markup=False)


def report(given: argparse.Namespace) -> int:
    """``pai-bench report``."""
    from pai_bench.report.page import write_report
    from pai_bench.store import Store

    store = Store(given.results)
    path = write_report(store, Path(getattr(given, "output", store.path / "report.md")))
    make_console().print(f"report: {path}", highlight=False)
    return 0


def prune(given: argparse.Namespace) -> int:
    """``pai-bench prune``."""
    from rich.table import Table
    from safetensors import SafetensorError

    from pai_bench.catalog import resolve
    from pai_bench.pruning import prunable_parameters
    from pai_bench.runner import Runner

    flags = {key: value for key, value in vars(given).items() if key in recipe.KEYS and key != "data"}
    axes = {
        "criteria": given.criterion,
        "models": given.model,
        "sparsities": given.sparsity,
        "data": given.data,
    }
    catalog = resolve(Sweep(**axes, **flags))
    trial = dataclasses.replace(catalog.trials[1], seed=given.seed)
    runner = Runner(catalog)
    model = runner.model(trial)
    mask, cost = runner.mask(trial, model, runner.data(trial))
    assert mask is not None
    assert cost is not None
    try:
        mask.save(given.output)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the mask cannot be written to {given.output} ({error})") from error
    console = make_console()
    table = Table(title=f"{trial.criterion_name} on {trial.model}, sparsity {mask.sparsity:.4f}", title_justify="left")
    for column in ("layer", "weights", "kept", "density in %"):
        table.add_column(column, justify="left" if column == "layer" else "right")
    for name, kept in mask.kept_per_layer().items():
        size = prunable_parameters(model)[name].numel()
        table.add_row(name, f"{size:,}", f"{kept:,}", f"{100 * kept / size:.3g}", style=None if kept else "red")
    console.print(table)
    console.print(f"mask: {given.output}, {mask.kept:,} of {mask.size:,} connections, scored in {cost.seconds:.3g} s")
    return 0


def list_plugins(given: argparse.Namespace) -> int:
    """``pai-bench list``."""
    from rich.table import Table

    from pai_bench import registry

    table = Table(show_edge=False)
    if given.kind == "recipes":
        rows = [[name, text] for name, text in recipe.shipped().items()]
        columns = ["name", "what it does"]
    elif given.kind == "criteria":
        rows = [criterion_row(plugin) for plugin in registry.CRITERIA.plugins()]
        columns = ["name", "score", "schedule", "options", "source"]
    else:
        found = registry.MODELS if given.kind == "models" else registry.DATA
        rows = [[plugin_name(found, p), first_paragraph(p.target), p.source] for p in found.plugins()]
        columns = ["name", "what it is", "source"]
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    make_console().print(table)
    return 0


def plugin_name(found: Any, plugin: Any) -> str:
    """A name with its aliases; a prefix shows that an argument follows."""
    aliases = found.aliases(plugin.name)
    name = plugin.name + ("NAME" if plugin.name.endswith(":") else "")
    return f"{name} ({', '.join(aliases)})" if aliases else name


def criterion_row(plugin: Any) -> list[str]:
    """Facts about a criterion: its formula, schedule, options with defaults, and source."""
    options = [f"{f.name.replace('_', '-')}={f.default}" for f in dataclasses.fields(plugin.target)]
    return [
        plugin.name,
        first_paragraph(plugin.target),
        str(plugin.target.schedule),
        " ".join(options),
        plugin.source,
    ]


def first_paragraph(target: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((getattr(target, "__doc__", "") or "").strip().partition("\n\n")[0].split())


def make_console() -> "Console":
    """A console that does not break lines in a log at 80 columns."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 160))


def without_paths(arguments: Sequence[str]) -> str:
    """The command as it may be shown: absolute paths shortened to their last part."""
    shortened = [re.sub(r"(?<![\w.])[~/][^\s:=,]*/([^\s:=,/]+)/?", r"\1", argument) for argument in arguments]
    return shlex.join(["pai-bench", *shortened])


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        given, rest = parser().parse_known_args(arguments)
        given.parser.refuse(rest)
        given.command = without_paths(arguments)
        logging.basicConfig(level=given.log_level.upper(), format="%(levelname)s: %(message)s")
        code: int = given.function(given)
        return code
    except UserError as error:
        print(f"pai-bench: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
