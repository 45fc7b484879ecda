"""The results folder, and what is kept in it."""

from pai_bench.store.collapses import Collapse, Tried
from pai_bench.store.folder import Store, as_frame, read_results
from pai_bench.store.measurements import BenchmarkResult, Cost
from pai_bench.store.records import COLUMNS, EpochRecord, Layer, Record
from pai_bench.store.stored import SCHEMA, UnstorableError

__all__ = [
    "COLUMNS",
    "SCHEMA",
    "BenchmarkResult",
    "Collapse",
    "Cost",
    "EpochRecord",
    "Layer",
    "Record",
    "Store",
    "Tried",
    "UnstorableError",
    "as_frame",
    "read_results",
]
