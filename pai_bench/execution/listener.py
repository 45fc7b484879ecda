"""What is called with a sweep's progress."""

from collections.abc import Sequence

from pai_bench.execution.backend import Backend
from pai_bench.experiment.resolve import Catalog
from pai_bench.experiment.trial import Trial
from pai_bench.results import Record, TrialMetrics


class Listener:
    """Methods that are called with a sweep's progress. Each may be overridden; by default they do nothing."""

    def on_planning(self, trials: int) -> None:
        """So many trials are to be run; how is determined now."""

    def on_begin(self, catalog: Catalog, backend: Backend, total: int, missing: list[Trial]) -> None:
        """A grid has `total` trials that no earlier grid has; `missing` are to be run by `backend`, later."""

    def on_ready(self) -> None:
        """`on_begin` was called for all grids; trials begin now."""

    def on_start(self, trial: Trial) -> None:
        """A trial begins."""

    def on_epoch(self, trial: Trial, epoch: int) -> None:
        """A trial has finished `epoch` epochs of training; 0 when training begins."""

    def on_finish(self, trial: Trial, record: Record, seconds: float) -> None:
        """A trial has ended, well or not, and is stored. Trials in lanes share their seconds."""

    def on_skip(self, trial: Trial) -> None:
        """A missing trial has been stored by another process meanwhile."""

    def on_wait(self, trials: Sequence[Trial], owners: Sequence[str]) -> None:
        """All others are done, and these trials are run by other processes, which are named ``host:pid``."""

    def on_evaluation(self, trials: Sequence[Trial]) -> None:
        """All that could be trained is trained; metrics of the networks of these trials are computed now."""

    def on_evaluated(self, trial: Trial, metrics: TrialMetrics | None, seconds: float) -> None:
        """The metrics of one of them are computed and stored."""

    def on_end(self) -> None:
        """The sweep is over, finished or not."""
