"""Masks: which connections are kept, how they are selected by scores, and in how many cuts."""

from pai_bench.masks.cutting import cut
from pai_bench.masks.mask import Mask
from pai_bench.masks.schedule import Exponential, Halving, Linear, OneShot, Schedule, get_schedule
from pai_bench.masks.selection import Scope, Ties, select

__all__ = [
    "Exponential",
    "Halving",
    "Linear",
    "Mask",
    "OneShot",
    "Schedule",
    "Scope",
    "Ties",
    "cut",
    "get_schedule",
    "select",
]
