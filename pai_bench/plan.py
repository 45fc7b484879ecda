"""Where sweeps and trials were imported from."""

from pai_bench.experiment.sweep import MOST_TRIALS, Sweep, checked_axis, checked_seeds, refuse_duplicates
from pai_bench.experiment.trial import DENSE, Trial, expand, fraction

__all__ = [
    "DENSE",
    "MOST_TRIALS",
    "Sweep",
    "Trial",
    "checked_axis",
    "checked_seeds",
    "expand",
    "fraction",
    "refuse_duplicates",
]
