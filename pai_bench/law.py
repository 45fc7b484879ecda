"""The names of initialisations, which `pai_bench.initialise` draws by. Imports no torch."""

from typing import Literal

Law = Literal["vs-x", "vs-h", "vs", "rn", "tn", "openlth", "grasp"]
