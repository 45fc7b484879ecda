"""Whether the device computes what the CPU computes: scores, masks, paths, training steps (`benchmarks.gpu.checks`)."""

from benchmarks.gpu.checks import epochs, scores, selection, steps
from benchmarks.gpu.stage import Context, Piece


def pieces(context: Context) -> list[Piece]:
    """All checks: first those of what there is only on a GPU, since time may not suffice for all."""
    return [part for subject in (epochs, selection, scores, steps) for part in subject.pieces(context)]
