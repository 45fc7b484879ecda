"""Experiments that train nothing: where networks fall apart, what scoring costs, what criteria claim."""
