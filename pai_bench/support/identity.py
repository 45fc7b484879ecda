"""Identities and seeds, computed from the settings that they stand for. Imports nothing heavy."""

import hashlib
import json
import re
from typing import Any


def identify(readable: str, content: Any) -> str:
    """A valid file name: a `readable` prefix, and a hash of the canonical JSON of `content`."""
    return f"{re.sub(r'[^A-Za-z0-9.=-]+', '_', readable)[:80]}-{digest(content)}"


def digest(content: Any, digits: int = 12) -> str:
    """The first hexadecimal `digits` of the SHA-256 of the canonical JSON of `content`."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:digits]


def stream(seed: int, purpose: str) -> int:
    """The seed of one of the independent random streams of `seed`: ``weights``, ``scores``, ``batch``, ``order``...

    A function of the seed and the purpose alone, so that all criteria and sparsities of a trial's seed share it.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:6], "big")
