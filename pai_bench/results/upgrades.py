"""Older forms of stored results, turned into that of today: keys that were added, and what they mean where missing.

What is None or empty because nobody knows or has computed it needs no entry: that is the default of its field. The
configuration of a trial is kept as it is stored, since its identity is the hash of that.
"""

from collections.abc import Mapping
from typing import Any

ADDED_TO_RECORDS = {"provenance.workers": 1, "provenance.lanes": 1, "provenance.compiled": False}
ADDED_TO_COSTS = {"precision": "fp32", "memory_format": "contiguous"}


def upgraded(content: dict[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file, in which every key that was `added`, such as ``provenance.lanes``, has a value.

    Raises KeyError, TypeError or AttributeError if what is to hold a key is not there, or is no object.
    """
    for path, value in added.items():
        *outer, key = path.split(".")
        holder = content
        for name in outer:
            holder = holder[name]
        holder.setdefault(key, value)
    return content
