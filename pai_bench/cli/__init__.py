"""The command line: `main`, the parser, and a file for each verb, which calls and prints.

Imports are inside the functions of the verbs, so that `pai-bench --help` is quick.
"""

from pai_bench.cli.entry import main

__all__ = ["main"]
