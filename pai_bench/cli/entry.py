"""The command line: from arguments to a verb, and from its result to an exit code."""

import argparse
import importlib
import io
import logging
import sys
from collections.abc import Callable, Sequence

from pai_bench.cli.checks import check
from pai_bench.cli.collapses import collapse
from pai_bench.cli.console import INTERRUPTED, USER_ERROR, make_console
from pai_bench.cli.costs import time
from pai_bench.cli.evaluations import evaluate
from pai_bench.cli.folders import merge, verify
from pai_bench.cli.listing import list_plugins
from pai_bench.cli.masks import prune
from pai_bench.cli.parser import divide, parser
from pai_bench.cli.reports import compare, report
from pai_bench.cli.status import status
from pai_bench.cli.sweeps import run
from pai_bench.support.environment import command, ignore_harmless_warnings
from pai_bench.support.errors import UserError
from pai_bench.support.processes import signals_as_interrupts

VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "evaluate": evaluate,
    "report": report,
    "compare": compare,
    "status": status,
    "verify": verify,
    "merge": merge,
    "time": time,
    "collapse": collapse,
    "prune": prune,
    "check": check,
    "list": list_plugins,
}

HEAVY = {
    **dict.fromkeys(("run", "evaluate", "time", "collapse", "prune"), "pai_bench.experiment.runner"),
    **dict.fromkeys(("report", "compare"), "pai_bench.report.page"),
    **dict.fromkeys(("status", "verify", "merge"), "pai_bench.results"),
    **{"check": "pai_bench.analyses.conformance", "list": "pai_bench.scoring"},
}
"""Verb -> what it imports that takes seconds."""

CHATTY = ("matplotlib", "PIL")
"""Packages that log every font and every part of an image at the level ``debug``."""

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows few characters is no reason to fail
            stream.reconfigure(errors="replace")
    try:
        if with_nul := [argument for argument in argv if "\0" in argument]:
            raise UserError(f"the argument {with_nul[0]!r} holds a NUL character, which no name may")
        arguments, rest = parser().parse_known_args(argv)
        arguments.parser.refuse(rest)
        divide(arguments)
        arguments.command = command(argv)
        ignore_harmless_warnings()
        logging.basicConfig(level=arguments.log_level.upper(), format="%(levelname)s: %(message)s")
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        with signals_as_interrupts():
            with make_console().status("starting"):  # a word at once, on a terminal
                importlib.import_module(HEAVY[arguments.verb])
            return VERBS[arguments.verb](arguments)
    except UserError as error:
        logger.debug("this is where the error comes from:", exc_info=True)
        print(f"pai-bench: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("pai-bench: interrupted", file=sys.stderr)
        return INTERRUPTED
