"""Trials that another process has taken over while this one was stopped: what it trained of them ends."""

from collections.abc import Collection, Sequence

from pai_bench.experiment.checkpoints import CheckpointStore


class TakenOverError(BaseException):
    """Raised in the training of trials of which one was taken over; it is no failure, and makes no record."""


class ClaimedTrials:
    """Which trials of a cell are claimed when it begins; none where no claims can be kept."""

    def __init__(self, checkpoints: CheckpointStore | None, trials: Sequence[str]) -> None:
        self._checkpoints = checkpoints
        self._at_begin = checkpoints.claimed(trials) if checkpoints else frozenset[str]()

    def check(self, trials: Collection[str]) -> None:
        """Raise TakenOverError if the claim of one of these has gone since."""
        claimed = self._at_begin.intersection(trials)
        if self._checkpoints and (lost := claimed - self._checkpoints.claimed(claimed)):
            raise TakenOverError(f"another process has taken over {min(lost)}: it is no longer trained here")
