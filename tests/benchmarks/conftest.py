"""The folder `benchmarks` is not installed: it is found in the checkout, behind whatever is."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
