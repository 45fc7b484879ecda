"""Which of the stored results are of the newest version of their criterion."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pai_bench.results import Collapse, Cost, Record
from pai_bench.results.stored import plain

Result = TypeVar("Result", bound=Record | Cost | Collapse)

DIGEST = re.compile(r"@([0-9a-f]{8})\b")
"""The hash of a criterion's file, in the name of the criterion (`pai_bench.scoring.lookup`)."""

Version = tuple[tuple[str, ...], int]
"""The hashes of the files of a criterion and its variant, and the revision of the criterion."""


def newest(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """`results` without those of which a newer version is there, at any sparsity and seed, and the names of these.

    A higher revision is newer; of a criterion in a file, the version that was run last. Results that hold no time are
    older than those that do; if several versions hold none, all stay.
    """
    uses = [use_and_version(result) if result.trial["criterion"] is not None else None for result in results]
    finished: defaultdict[str, dict[Version, str]] = defaultdict(dict)
    for result, use in zip(results, uses, strict=True):
        if use:
            own = finished[use[0]]
            own[use[1]] = max(own.get(use[1], ""), result.provenance.finished or "")
    current = {use: newest_of(versions) for use, versions in finished.items()}
    is_newest = [use is None or use[1] in current[use[0]] for use in uses]
    older = {described(result) for result, newest in zip(results, is_newest, strict=True) if not newest}
    return [result for result, newest in zip(results, is_newest, strict=True) if newest], sorted(older)


def use_and_version(result: Record | Cost | Collapse) -> tuple[str, Version]:
    """The configuration of a result apart from sparsity, seed and version, as a text; and the version."""
    trial = dict(result.trial)
    criterion, variant = trial.pop("criterion"), trial.pop("variant", "none")
    text = f"{criterion['name']} + {variant}"
    for key in ("sparsity", "seed"):
        trial.pop(key, None)
    where = [plain(result.environment), result.precision] if isinstance(result, Cost) else []
    use = json.dumps([DIGEST.sub("", text), criterion["schedule"], trial, where], sort_keys=True, default=list)
    return use, (tuple(DIGEST.findall(text)), criterion["revision"])


def newest_of(finished: Mapping[Version, str]) -> set[Version]:
    """The newest of some versions, given when each was last run; several where that is not known."""
    if len({hashes for hashes, _ in finished}) == 1:
        return {max(finished, key=lambda version: version[1])}
    return {version for version, time in finished.items() if time == max(finished.values())}


def described(result: Record | Cost | Collapse) -> str:
    """The name of a version."""
    criterion, variant = result.trial["criterion"], result.trial.get("variant", "none")
    name = criterion["name"] if variant == "none" else f"{criterion['name']} + {variant}"
    revision = "" if DIGEST.search(criterion["name"]) else f", revision {criterion['revision']}"
    return f"{name}{revision}"
