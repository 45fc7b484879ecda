"""Accuracies from the literature: facts, each with its source, table, and how its epoch was chosen."""
