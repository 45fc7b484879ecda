"""The results folder, and what is kept in it."""

from pai_bench.store.folder import Store, as_frame, read_results
from pai_bench.store.records import (
    COLUMNS,
    SCHEMA,
    BenchmarkResult,
    Collapse,
    Cost,
    EpochRecord,
    Layer,
    Record,
    Tried,
)

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
    "as_frame",
    "read_results",
]
