"""Experiments without training: layer collapse, the cost of scoring, the conformance of criteria."""
