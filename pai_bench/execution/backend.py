"""Where trials run: the protocol of backends, and how one is found by its name.

A backend is one file: a class that keeps the protocol `Backend`, and a function that makes it for the missing trials of
a sweep. The function is decorated with ``@pai_bench.backend(NAME, source=...)`` in an installed package, which has an
entry point in the group ``pai_bench.backends``; or it is named as ``./file.py:FUNCTION``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record
from pai_bench.support.registry import BACKENDS

Cell = Sequence[Trial]
"""Trials that are trained together."""


@dataclass(frozen=True)
class Callbacks:
    """Functions that a backend calls while it runs cells, in its own thread; an error in one ends the run."""

    still_missing: Callable[[Cell], list[Trial]]
    """Before a cell is run: the trials of it that are still missing, perhaps none."""
    on_epoch: Callable[[Trial, int], None]
    """When a trial begins to train (0), and with every epoch that it has finished."""
    on_records: Callable[[Cell, Sequence[Record], float], None]
    """When trials of a cell have been run: a record of each, and the seconds that they took together."""


class Backend(Protocol):
    """A place where trials run. At the end of its context, whatever the reason, nothing runs there any more."""

    plan: ExecutionPlan
    """By how many workers trials are run there, and how many of a kind are trained together."""

    @property
    def description(self) -> str:
        """The place in a few words, for the display."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, cells: Sequence[Cell], callbacks: Callbacks) -> None:
        """Run all `cells`. A trial that fails is a record, too (`pai_bench.experiment.runner.Runner.failure`).

        Trials of which no record comes are those that another process has taken over; they run again if it leaves them.
        """


MakeBackend = Callable[[Runner, Sequence[Trial]], Backend]
"""A function of the runner of this process and the missing trials, for which it makes the plan."""


def find_backend(name: str) -> MakeBackend:
    """The function that makes the backend called `name`, or ``PREFIX:ADDRESS``."""
    plugin, argument = BACKENDS.find(name)
    make: MakeBackend = plugin.given(argument)
    return make
