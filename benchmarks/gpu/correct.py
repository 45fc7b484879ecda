"""Whether the device computes what the CPU computes: scores, masks, paths, training steps (`benchmarks.gpu.checks`)."""

from benchmarks.gpu.checks import epochs, scores, selection, steps
from benchmarks.gpu.stage import Context, Piece


def pieces(context: Context) -> list[Piece]:
    """All checks: what every other stage rests on comes first."""
    return [part for subject in (scores, selection, steps, epochs) for part in subject.pieces(context)]
