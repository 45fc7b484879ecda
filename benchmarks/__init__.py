"""Speed compared with its floors (pytest-benchmark), and the run for a GPU (`python -m benchmarks.gpu`)."""
