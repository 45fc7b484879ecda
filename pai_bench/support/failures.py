"""What is said of an error in a formula or a network: what it is, where it was raised, and how it came there."""

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
"""Packages whose lines say less of a mistake than the line that calls them."""


def described(error: BaseException) -> str:
    """Type and message in one line, and file and line of the formula or the network that raised it, if one did."""
    cure = f"; {FROZEN}" if isinstance(error, TypeError) and "non-frozen dataclass" in str(error) else ""
    return " ".join(f"{type(error).__name__}: {error}".split()) + cure + place(error)


def place(error: BaseException) -> str:
    """`` (FILE, line N, in FUNCTION)``, the innermost outside of `LIBRARIES`; empty for errors of our own."""
    if isinstance(error, UserError):
        return ""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in LIBRARIES:
            found = f" ({PurePath(code.co_filename).name}, line {line}, in {code.co_name})"
    return found


def crash_location(text: str) -> str:
    """`` at FILE, line N, in FUNCTION``, of what `faulthandler` has written: the innermost that is of no package."""
    folders = {
        str(PurePath(__file__).parents[1]),
        *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
    }
    found = re.findall(r'^  File "([^<].*)", line (\d+) in (.+)$', text, re.MULTILINE)
    own = [one for one in found if not any(one[0].startswith(f"{folder}{os.sep}") for folder in folders)]
    for file, line, function in (own or found)[:1]:
        return f" at {PurePath(file).name}, line {line}, in {function}"
    return ""


def traceback_of(error: BaseException) -> str | None:
    """The whole traceback, with the errors before it, without a path of the machine; None if it was never raised."""
    if error.__traceback__ is None:
        return None
    found: traceback.TracebackException | None = traceback.TracebackException.from_exception(error)
    assert found is not None
    text = "".join(found.format())
    while found is not None:  # a path may hold spaces, at which it would be cut
        for frame in found.stack:
            text = text.replace(f'File "{frame.filename}"', f'File "{PurePath(frame.filename).name}"')
        found = found.__cause__ or found.__context__
    return without_paths(text).encode("utf-8", "replace").decode()  # halves of characters could not be stored
