"""Independent random streams of one seed. Imports nothing heavy."""

import hashlib


def stream(seed: int, purpose: str) -> int:
    """The seed of one of the independent random streams of `seed`: ``weights``, ``scores``, ``batch``, ``order``...

    A function of the seed and the purpose alone, so that all criteria and sparsities of a trial's seed share it.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:6], "big")
