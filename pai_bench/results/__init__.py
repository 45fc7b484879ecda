"""The results folder, and what is kept in it."""

from pai_bench.results.collapses import Collapse, MaskEffect
from pai_bench.results.folder import Store, as_frame, read_results
from pai_bench.results.measurements import (
    BenchmarkResult,
    BesideDense,
    Cost,
    Measured,
    SmallerNetwork,
    TrialMetrics,
)
from pai_bench.results.origin import Environment, Provenance, SearchProvenance, TrialProvenance, UsedData
from pai_bench.results.records import COLUMNS, Record
from pai_bench.results.sections import EpochRecord, Evaluation, Layer, Pruning, Training
from pai_bench.results.stored import SCHEMA, UnstorableError, UnwritableError

__all__ = [
    "COLUMNS",
    "SCHEMA",
    "BenchmarkResult",
    "BesideDense",
    "Collapse",
    "Cost",
    "Environment",
    "EpochRecord",
    "Evaluation",
    "Layer",
    "MaskEffect",
    "Measured",
    "Provenance",
    "Pruning",
    "Record",
    "SearchProvenance",
    "SmallerNetwork",
    "Store",
    "Training",
    "TrialMetrics",
    "TrialProvenance",
    "UnstorableError",
    "UnwritableError",
    "UsedData",
    "as_frame",
    "read_results",
]
