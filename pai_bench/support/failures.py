"""Texts about an error in a formula or a network: what it is, where it was raised, and its traceback."""

import os
import re
import sys
import sysconfig
import traceback
from pathlib import PurePath

from pai_bench.support.environment import without_paths
from pai_bench.support.errors import FROZEN, UserError

LIBRARIES = {
    *(sys.stdlib_module_names - {"__main__"}),
    *("pai_bench", "torch", "torchvision", "numpy", "scipy", "pandas", "sklearn", "PIL", "timm"),
}
"""Packages of which no line is named: the line that calls them is where a mistake is."""


def described(error: BaseException) -> str:
    """Type and message in one line, and file and line of the formula or the network that raised it, if one did."""
    cure = f"; {FROZEN}" if isinstance(error, TypeError) and "non-frozen dataclass" in str(error) else ""
    return " ".join(f"{type(error).__name__}: {error}".split()) + cure + location(error)


def location(error: BaseException) -> str:
    """`` (FILE, line N, in FUNCTION)``, the innermost outside of `LIBRARIES`; empty for errors of our own."""
    text = ""
    for frame, line in traceback.walk_tb(None if isinstance(error, UserError) else error.__traceback__):
        code = frame.f_code
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in LIBRARIES:
            text = f" ({PurePath(code.co_filename).name}, line {line}, in {code.co_name})"
    return text


def crash_location(text: str) -> str:
    """`` at FILE, line N, in FUNCTION``, of what `faulthandler` has written: the innermost that is of no package."""
    installed = map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))
    packages = tuple(f"{folder}{os.sep}" for folder in (PurePath(__file__).parents[1], *installed))
    frames = re.findall(r'^  File "([^<].*)", line (\d+) in (.+)$', text, re.MULTILINE)
    for file, line, function in [frame for frame in frames if not frame[0].startswith(packages)] or frames:
        return f" at {PurePath(file).name}, line {line}, in {function}"
    return ""


def traceback_of(error: BaseException) -> str | None:
    """The whole traceback, with the errors before it, without a path of the machine; None if it was never raised."""
    if error.__traceback__ is None:
        return None
    text = "".join(traceback.format_exception(error))
    for file in re.findall(r'File "(.+)", line \d', text):  # a path may hold spaces, at which it would be cut
        text = text.replace(f'File "{file}"', f'File "{PurePath(file).name}"')
    return without_paths(text).encode("utf-8", "replace").decode()  # halves of characters could not be stored
