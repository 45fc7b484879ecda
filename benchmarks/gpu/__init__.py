"""One prepared run for a GPU: correctness, cost, speed and tables in a few minutes (docs/gpu.md)."""
