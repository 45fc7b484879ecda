"""The results folder, and what is kept in it."""

from pai_bench.store.collapses import Collapse, Tried
from pai_bench.store.evaluations import Measured, TrialMetrics
from pai_bench.store.folder import Store, as_frame, read_results
from pai_bench.store.measurements import BenchmarkResult, Cost
from pai_bench.store.origin import Environment, Provenance, SearchProvenance, TrialProvenance, UsedData
from pai_bench.store.records import COLUMNS, Record
from pai_bench.store.sections import EpochRecord, Evaluation, Layer, Pruning, Training
from pai_bench.store.stored import SCHEMA, UnstorableError

__all__ = [
    "COLUMNS",
    "SCHEMA",
    "BenchmarkResult",
    "Collapse",
    "Cost",
    "Environment",
    "EpochRecord",
    "Evaluation",
    "Layer",
    "Measured",
    "Provenance",
    "Pruning",
    "Record",
    "SearchProvenance",
    "Store",
    "Training",
    "TrialMetrics",
    "TrialProvenance",
    "Tried",
    "UnstorableError",
    "UsedData",
    "as_frame",
    "read_results",
]
