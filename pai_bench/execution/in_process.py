"""The backend that is this process: one cell after the other."""

import time
from collections.abc import Iterable, Sequence
from typing import Self

from pai_bench.execution.autotune import choose
from pai_bench.execution.backend import Callbacks, Cell
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.support.errors import UserError
from pai_bench.support.registry import backend


class InProcess:
    """A `Backend` without workers: a crash ends the sweep, and a debugger sees everything."""

    def __init__(self, runner: Runner, plan: ExecutionPlan) -> None:
        self.runner, self.plan = runner, plan

    @property
    def description(self) -> str:
        """How many trials are trained together."""
        return str(self.plan)

    def __enter__(self) -> Self:
        if (isolated := self.runner.catalog.isolated_process) is not None:
            isolated.close()  # it is no longer needed, and would keep the memory of a device
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def run(self, cells: Iterable[Cell], callbacks: Callbacks) -> None:
        """As of every `Backend`."""
        for cell in cells:
            if missing := callbacks.still_missing(cell):
                start, engine = time.perf_counter(), self.plan.engine(missing[0])
                for trials, records in self.runner.run_together(missing, callbacks.on_epoch, engine):
                    callbacks.on_records(trials, records, time.perf_counter() - start)
                    start = time.perf_counter()


@backend("in-process", source="pai_bench")
def in_process(runner: Runner, missing: Sequence[Trial]) -> InProcess:
    """In this process, also for networks and criteria that are not ours."""
    if (workers := runner.catalog.sweep.workers) not in ("auto", 1):
        raise UserError(f"backend in-process has no workers, and {workers} are asked for: use --backend processes")
    return InProcess(runner, choose(runner, missing, workers=1))
