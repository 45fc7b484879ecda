"""Scores of connections: the contract of a criterion, the network that its formula sees, and isolated scoring."""

from pai_bench.graph.tracing import tensors
from pai_bench.groups import Axis, Groups
from pai_bench.groups.reductions import consumer_sum, gate_sensitivity, root_sums
from pai_bench.networks.forward import forward, no_recomputation
from pai_bench.networks.layers import prunable_parameters
from pai_bench.networks.private_copy import BatchNormMode
from pai_bench.scoring.batch import Batch, BatchLike, Scores
from pai_bench.scoring.criterion import AuthorsChoice, AuthorsStatement, Criterion
from pai_bench.scoring.during import Change, DuringOrBefore, DuringTraining, Moment, Timeline
from pai_bench.scoring.iterative import IterativePruning, Rewind
from pai_bench.scoring.lookup import get_criterion
from pai_bench.scoring.masked_model import MaskedModel
from pai_bench.scoring.redraw import redraw_
from pai_bench.scoring.scorer import Scorer
from pai_bench.scoring.single_example_conv import convolve_single_example
from pai_bench.scoring.structured import CombinedCriterion, CombinedScores, StructuredCriterion, unstructured_scores
from pai_bench.support.errors import CriterionError
from pai_bench.support.spec import added_later
from pai_bench.support.transfers import read_scalars

__all__ = [
    "AuthorsChoice",
    "AuthorsStatement",
    "Axis",
    "Batch",
    "BatchLike",
    "BatchNormMode",
    "Change",
    "CombinedCriterion",
    "CombinedScores",
    "Criterion",
    "CriterionError",
    "DuringOrBefore",
    "DuringTraining",
    "Groups",
    "IterativePruning",
    "MaskedModel",
    "Moment",
    "Rewind",
    "Scorer",
    "Scores",
    "StructuredCriterion",
    "Timeline",
    "added_later",
    "consumer_sum",
    "convolve_single_example",
    "forward",
    "gate_sensitivity",
    "get_criterion",
    "no_recomputation",
    "prunable_parameters",
    "read_scalars",
    "redraw_",
    "root_sums",
    "tensors",
    "unstructured_scores",
]
