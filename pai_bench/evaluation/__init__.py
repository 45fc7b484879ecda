"""What is measured of a trained network: metrics, and how their results are stored."""

from pai_bench.evaluation import adversarial  # noqa: F401  # which registers its metrics
from pai_bench.evaluation.metrics import (
    Dense,
    Metric,
    Values,
    check_metric,
    evaluate_network,
    get_metric,
    loss_and_accuracy,
    measure,
    missing_metrics,
    needs_dense,
)

__all__ = [
    "Dense",
    "Metric",
    "Values",
    "check_metric",
    "evaluate_network",
    "get_metric",
    "loss_and_accuracy",
    "measure",
    "missing_metrics",
    "needs_dense",
]
