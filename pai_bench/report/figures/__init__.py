"""Figures of a report, a function each. The same records give the same bytes."""
