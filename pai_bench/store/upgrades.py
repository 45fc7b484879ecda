"""Older forms of stored results, turned into that of today: what is meant where a key that came later is not there.

What is None or empty because nobody knows or has computed it needs no entry: that is the default of its field. The
configuration of a trial is kept as it is stored, since its identity is the hash of that.
"""

from collections.abc import Mapping
from typing import Any

RECORD = {"provenance.workers": 1, "provenance.lanes": 1, "provenance.compiled": False}

COST = {"precision": "fp32", "memory_format": "contiguous"}


def upgraded(content: dict[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file, in which every key that came `later`, such as ``provenance.lanes``, has a value.

    Raises KeyError, TypeError or AttributeError if what is to hold a key is not there, or is no object.
    """
    for path, value in later.items():
        *way, key = path.split(".")
        place = content
        for step in way:
            place = place[step]
        place.setdefault(key, value)
    return content
