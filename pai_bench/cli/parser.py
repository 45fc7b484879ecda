"""The arguments of the command line: which flags each verb has, and how they are read."""

import argparse
import dataclasses
import difflib
import functools
import os
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from pai_bench import __version__
from pai_bench.cli.help_texts import (
    CHECK_EXAMPLES,
    COLLAPSE_EXAMPLES,
    EVALUATE_NOTES,
    EXAMPLES,
    MERGE_NOTES,
    PRUNE_EXAMPLES,
    RUN_EXAMPLES,
    STATUS_NOTES,
    TIME_EXAMPLES,
    VERIFY_NOTES,
)
from pai_bench.experiment import recipe
from pai_bench.experiment.settings import ScoringSettings, names
from pai_bench.experiment.sweep import Sweep, checked_seeds
from pai_bench.support import spec
from pai_bench.support.errors import UserError
from pai_bench.support.registry import REGISTRIES

DURING_TRAINING = ("prune_at", "prune_when", "score_labels")
"""Settings of scoring that only a network that is trained has."""

LISTED = (*REGISTRIES, "recipes")
"""What there are lists of."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest flag, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        raise UserError(re.sub(r"^argument \S+: (?=-)", "", message))  # our own messages name the flag already

    def refuse(self, rest: list[str]) -> None:
        """An error about arguments that are left over, if there are any."""
        if rest:
            known = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(rest[0].partition("=")[0], known, n=3, cutoff=0.7)
            hint = f"did you mean {' or '.join(near)}?" if near else f"see `{self.prog} --help`"
            raise UserError(f"unrecognized arguments: {' '.join(rest)} ({hint})")


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
    for add in (add_run, add_evaluate, add_status, add_report, add_compare):
        add(verbs)
    for add in (add_verify, add_merge, add_time, add_collapse, add_prune):
        add(verbs)
    check = add_verb(verbs, "check", "hold a criterion, a third party's too, to the contract", CHECK_EXAMPLES)
    check.add_argument("criterion", help="NAME[:OPTION=VALUE]... or ./file.py:ClassName[:OPTION=VALUE]...")
    help = "name what there is: criteria, models, data sets, schedules, protocols and more"
    add_verb(verbs, "list", help).add_argument("kind", choices=LISTED)
    return top


def add_verb(verbs: Any, name: str, help: str, epilog: str | None = None) -> Parser:
    """A verb with the flags that all have."""
    verb: Parser = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.set_defaults(parser=verb)
    verb.add_argument("--version", action="version", version=f"pai-bench {__version__}")
    levels = ["debug", "info", "warning", "error"]
    verb.add_argument("--log-level", choices=levels, default="warning", help="how much to log (default: warning)")
    return verb


def add_run(verbs: Any) -> None:
    """``run``: its flags are the fields of `Sweep`."""
    verb = add_verb(verbs, "run", "compare criteria: score, prune, train, store, and write a report", RUN_EXAMPLES)
    add_recipe(verb)
    add_keys(verb, *(f.name for f in dataclasses.fields(Sweep)))
    help = (
        "where trials run: in-process, processes, ray, one of an installed package, or ./file.py:FUNCTION; auto is "
        "workers where they are faster or safer, and otherwise this process (default: auto)"
    )
    flag = verb.add_argument
    flag("--backend", metavar="NAME", default="auto", help=help)
    help = "run on the Ray cluster at ADDRESS, HOST:PORT; auto: on that of RAY_ADDRESS, or on one started here"
    flag("--ray", metavar="auto|ADDRESS", help=help)
    flag("--retry-failed", action="store_true", help="run failed trials again")
    help = "end after this time, as 90s, 5m or 3h55m, with a checkpoint of what is trained then (default: no limit)"
    flag("--time-limit", metavar="TIME", help=help)
    help = (
        "run only the I-th of N parts of the sweep, for jobs that share no folder, such as those of a job array; "
        "`pai-bench merge` puts their results together. Jobs with one folder divide the trials without it"
    )
    flag("--shard", metavar="I/N", help=help)
    flag("--dry-run", action="store_true", help="list the trials, and what they will cost; run nothing")
    flag("--quick", action="store_true", help="a smoke run: the keys of the recipe `quick` on top")


def add_evaluate(verbs: Any) -> None:
    """``evaluate``."""
    help = "take metrics of the trained networks of a results folder, such as their accuracy under attack"
    verb = add_verb(verbs, "evaluate", help, EVALUATE_NOTES)
    verb.add_argument("results", nargs="?", default="results", help="results folder (default: results)")
    help = "metrics, with commas between; see `pai-bench list metrics`"
    verb.add_argument("--evaluate", metavar="A,B,...", required=True, help=help)
    add_keys(verb, "keep_networks", "data_dir", "device", "workers")


def add_status(verbs: Any) -> None:
    """``status``."""
    help = "show which processes run trials of a results folder, and how far they are"
    flag = add_verb(verbs, "status", help, STATUS_NOTES).add_argument
    flag("results", nargs="?", default="results", help="results folder (default: results)")


def add_report(verbs: Any) -> None:
    """``report``."""
    flag = add_verb(verbs, "report", "write the markdown report of a results folder; runs nothing").add_argument
    help = "results folder, or a file of records (default: results)"
    flag("results", nargs="?", default="results", help=help)
    help = "where to; .md, .csv, .json, .tex or .html says the format (default: report.md in the results folder)"
    flag("-o", "--output", metavar="FILE", help=help)
    help = "write all records beside the report, without masks, as records.jsonl.xz: `report` and `compare` read it"
    flag("--records", action="store_true", help=help)
    help = "show also criteria of which a newer version is there: an edited class, or a lower revision"
    flag("--all-versions", action="store_true", help=help)
    help = "which sparsity the figures' axis shows: the share removed, or not on any path (default: direct)"
    flag("--x", choices=["direct", "effective"], default="direct", help=help)
    help = (
        "the whole report in markdown, or its table of all numbers in another format (default: what the suffix of -o "
        "says, or markdown)"
    )
    flag("--format", choices=["markdown", "csv", "json", "latex", "html"], help=help)
    flag("--figures", choices=["svg", "png"], default="svg", help="format of figures (default: svg)")
    help = "test too which criteria are equal to within so many points of accuracy, such as 0.5 (default: not tested)"
    flag("--margin", type=float, metavar="POINTS", help=help)
    flag("--timings", metavar="FILE", help="a file of `pytest --benchmark-json FILE`, to become a part of the report")


def add_compare(verbs: Any) -> None:
    """``compare``."""
    help = "show the same trials of two results folders side by side, and what changed beyond the spread of seeds"
    flag = add_verb(verbs, "compare", help).add_argument
    flag("before", metavar="A", help="a results folder, or a file of records")
    flag("after", metavar="B", help="another, of another machine or version")
    flag("-o", "--output", metavar="FILE", help="write the comparison to a markdown file, too")


def add_verify(verbs: Any) -> None:
    """``verify``."""
    help = "read every file of a results folder, and name what is damaged or does not belong there"
    flag = add_verb(verbs, "verify", help, VERIFY_NOTES).add_argument
    flag("results", nargs="?", default="results", help="results folder, or a file of records (default: results)")
    help = "set damaged files aside, as *.damaged, and remove what killed processes have left"
    flag("--repair", action="store_true", help=help)


def add_merge(verbs: Any) -> None:
    """``merge``."""
    help = "copy the results of several folders, such as those of several machines, into one"
    flag = add_verb(verbs, "merge", help, MERGE_NOTES).add_argument
    flag("folders", nargs="+", metavar="RESULTS", help="results folders, or files of records, which hold no masks")
    flag("-o", "--output", metavar="DIR", required=True, help="the folder that they go to; results in it stay")


def add_time(verbs: Any) -> None:
    """``time``."""
    verb = add_verb(verbs, "time", "measure what scoring costs, in seconds, bytes and training steps", TIME_EXAMPLES)
    flag = verb.add_argument
    add_key(verb, "sparsities", "sparsities of the whole pruning", (0.95,), flag="--sparsity")
    verb.set_defaults(sparsities=(0.95,))
    flag("--rounds", type=int, help="measurements of each, after a warm-up (default: 5 to 20, in a second)")
    help = "about the longest time for each, at least one round (default: 30)"
    flag("--seconds", type=float, default=30.0, help=help)
    flag("--out", metavar="DIR", default="results", help="results folder (default: results)")
    shared = ("criteria", "models", "data", "schedule", "scope", "bn", "score_batch", "score_batches")
    add_keys(verb, *shared, "score_sampling", "sparsity_of", "protocol", "batch_size", "device", "data_dir")


def add_collapse(verbs: Any) -> None:
    """``collapse``."""
    help = "find the sparsity at which each criterion disconnects a network; trains nothing"
    verb = add_verb(verbs, "collapse", help, COLLAPSE_EXAMPLES)
    add_recipe(verb)
    help = "sparsities looked at in full, half of the weights to one (default: 10)"
    verb.add_argument("--points", type=int, default=10, help=help)
    verb.add_argument("--rounds", type=int, help="cuts of iterative criteria (default: their own)")
    shared = ("criteria", "models", "data", "seeds", "schedule", "scope", "bn", "score_batch", "score_batches")
    add_keys(verb, *shared, "score_sampling", "prunable", "keep_first", "keep_last", "device", "data_dir")


def add_prune(verbs: Any) -> None:
    """``prune``."""
    help = "score one network, freshly initialised, and write its mask, or the smaller network"
    verb = add_verb(verbs, "prune", help, PRUNE_EXAMPLES)
    flag = verb.add_argument
    help = "network; `pai-bench list models` names them; or ./file.py:FUNCTION"
    flag("--model", dest="models", metavar="MODEL", required=True, help=help)
    help = "criterion, as NAME[:OPTION=VALUE]... (default: snip)"
    flag("--criterion", dest="criteria", metavar="CRITERION", default="snip", help=help)
    help = "share to remove of the weights, or of what --sparsity-of says, in [0, 1)"
    flag("--sparsity", dest="sparsities", metavar="SPARSITY", type=float, required=True, help=help)
    help = "data set that the score batch comes from, or ./file.py:FUNCTION (default: digits)"
    flag("--data", default="digits", help=help)
    flag("--seed", type=int, default=0, help="seed of weights and score batch (default: 0)")
    help = "write the network without the units that are removed, really smaller, in place of a mask"
    flag("--shrink", action="store_true", help=help)
    help = "default: mask.safetensors, or with --shrink small.safetensors"
    flag("-o", "--output", metavar="FILE", help=help)
    help = "write the initial weights that were scored there, too, as safetensors"
    flag("--save-weights", metavar="FILE", help=help)
    help = "none, shuffle, global-shuffle, reinit, invert or quota:NAME (default: none)"
    flag("--variant", dest="variants", metavar="VARIANT", default="none", help=help)
    before_training = [name for name in names(ScoringSettings) if name not in DURING_TRAINING]
    add_keys(verb, *before_training, "schedule", "bn", "device", "data_dir")


def add_recipe(verb: Parser) -> None:
    """A recipe, and the folder, which is a key of it: without the flag, it leaves no trace."""
    verb.add_argument("recipe", nargs="?", help="a TOML file, or one of `pai-bench list recipes`")
    verb.add_argument("--out", metavar="DIR", default=argparse.SUPPRESS, help="results folder (default: results)")


def add_keys(verb: Parser, *names: str) -> None:
    """The flags of some fields of `Sweep`."""
    for f in dataclasses.fields(Sweep):
        if f.name in names:
            add_key(verb, f.name, f.metadata["help"], f.default, shown=f.metadata.get("shown", ""))


class Entries(str):
    """The text of a list of names, which is divided when all flags are known, since a path may hold commas."""


def backend_name(arguments: argparse.Namespace) -> str:
    """The name of the backend that ``--backend`` or ``--ray`` asks for."""
    given: str = arguments.backend
    if arguments.ray is None:
        return given
    name = "ray" if arguments.ray == "auto" else f"ray:{arguments.ray}"
    if given not in ("auto", name):
        raise UserError(f"--ray {arguments.ray} is --backend {name}, and --backend {given} is given: give one of them")
    return name


def divide(arguments: argparse.Namespace) -> None:
    """Turn the lists of names among the arguments into tuples."""
    data_folders = getattr(arguments, "data_dir", None), os.environ.get("PAI_BENCH_DATA")
    folders = [Path(), *map(Path, filter(None, data_folders))]
    for key, text in vars(arguments).items():
        if isinstance(text, Entries):
            setattr(arguments, key, tuple(entries(text, folders)))


def entries(text: str, folders: Sequence[Path]) -> Iterator[str]:
    """The entries of a list; a comma in the path of a file, or of a folder in one of the `folders`, divides nothing."""
    parts = text.split(",")
    while parts:
        taken = next((n for n in range(len(parts), 1, -1) if is_there(",".join(parts[:n]).strip(), folders)), 1)
        yield ",".join(parts[:taken]).strip()
        del parts[:taken]


def is_there(entry: str, folders: Sequence[Path]) -> bool:
    """Whether an entry is ``folder:PATH`` or ``PATH.py:NAME``, without commas in NAME, and the path is there."""
    file, dot_py, name = entry.partition(".py:")
    if entry.startswith("folder:"):
        return any(os.path.isdir(folder / os.path.expanduser(entry.removeprefix("folder:"))) for folder in folders)
    return bool(dot_py) and "," not in name and os.path.isfile(os.path.expanduser(file + ".py"))


def add_key(verb: Parser, name: str, help: str, default: Any, flag: str | None = None, shown: str = "") -> None:
    """The flag of a field of `Sweep`, whose value is `shown` so, or as its type says.

    A flag that is not given leaves no trace, so that a recipe's value stands.
    """
    flag, to, help = flag or "--" + name.replace("_", "-"), recipe.KEYS[name], help.replace("%", "%%")
    add = functools.partial(verb.add_argument, flag, dest=name, default=argparse.SUPPRESS)
    if name in recipe.AXES:

        def axis(text: str) -> Any:
            if not all(part.strip() for part in text.split(",")):
                raise argparse.ArgumentTypeError(f"{flag}: the list is empty or has an empty entry")
            return Entries(text) if to is str else tuple(from_text(part.strip(), to, flag) for part in text.split(","))

        add(type=axis, metavar="A,B,...", help=f"{help} (default: {','.join(map(str, default))})")
    elif to is bool:
        add(action="store_true", help=help)
    else:
        usual = "" if default is None else f" (default: {default})".replace("%", "%%")
        add(type=lambda text: from_text(text, to, flag), metavar=shown or metavar(to), help=help + usual)


def from_text(text: str, to: Any, flag: str) -> Any:
    """A flag's value, or an error that names the flag."""
    try:
        return checked_seeds(text, flag) if flag == "--seeds" else spec.convert(text, to, flag)
    except UserError as error:
        # argparse passes on only this exception as it is
        raise argparse.ArgumentTypeError(str(error).replace(f"{flag}=", f"{flag} ", 1)) from None


def metavar(to: Any) -> str:
    """How a value of the type `to` is written in a help text."""
    if get_origin(to) is Annotated:
        return str(get_args(to)[1].shown)
    if get_origin(to) is Literal:
        return "|".join(map(str, get_args(to)))
    types_ = get_args(to) if get_origin(to) in (Union, types.UnionType) else (to,)
    words = [word for type_ in types_ if get_origin(type_) is Literal for word in get_args(type_)]
    words += ["A,B,..." for type_ in types_ if get_origin(type_) is Sequence]
    numbers = [name for type_, name in ((int, "N"), (float, "X")) if type_ in types_]
    return "|".join([*(numbers or ["NAME"]), *words])
