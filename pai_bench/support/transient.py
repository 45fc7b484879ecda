"""Errors that pass: memory, open files or processes that others use up for a while, and network file systems."""

import os
from collections.abc import Iterator

from pai_bench.support.memory import is_out_of_memory
from pai_bench.support.outfile import PASSING, SHORTAGES

TEXTS = ("can't start new thread", *(f"{os.strerror(code)} ({code})" for code in SHORTAGES))
"""In messages of Python's threads, and of torch where the system refuses something."""


def passes(error: BaseException) -> bool:
    """Whether an error, or one that led to it, may not come again a little later."""
    return any(_passes(cause) for cause in _with_causes(error))


def _passes(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in PASSING
    if not isinstance(error, Exception):
        return False
    return is_out_of_memory(error) or (isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS))


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those before it, as a traceback shows them."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
