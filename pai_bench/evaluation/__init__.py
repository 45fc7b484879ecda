"""What is measured of a trained network: metrics, and how their results are stored."""

from pai_bench.evaluation.metrics import Metric, evaluate_network, get_metric, loss_and_accuracy, measure

__all__ = ["Metric", "evaluate_network", "get_metric", "loss_and_accuracy", "measure"]
