"""Which of the stored results are of the newest version of their criterion."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from pai_bench.results import Collapse, Cost, Record
from pai_bench.results.stored import plain

Result = TypeVar("Result", bound=Record | Cost | Collapse)

DIGEST = re.compile(r"@([0-9a-f]{8})\b")
"""What tells versions of a criterion in a file apart, in its name (`pai_bench.scoring.lookup`)."""

Version = tuple[tuple[str, ...], int]
"""The hashes of the classes in files that a result was made by, and the revision of the criterion."""


def newest(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """`results` without those of which a newer version is there, at whatever sparsities and seeds, and their names.

    A higher revision is newer; of a class in a file, what was run last is. Results of before records held a time are
    older than those that do; of several without, none is known to be the newest, and all stay.
    """
    uses: dict[str, dict[Version, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        if result.trial["criterion"] is not None:
            use, version = use_and_version(result)
            uses[use][version].append(result)
    older = [
        result
        for versions in uses.values()
        for version in versions.keys() - current(versions)
        for result in versions[version]
    ]
    left_out = {id(result) for result in older}
    names = sorted({described(result) for result in older})
    return [result for result in results if id(result) not in left_out], names


def use_and_version(result: Record | Cost | Collapse) -> tuple[str, Version]:
    """What a result is of, apart from sparsity, seed and version, as a text; and the version."""
    trial = dict(result.trial)
    criterion, variant = trial.pop("criterion"), trial.pop("variant", "none")
    text = f"{criterion['name']} + {variant}"
    for key in ("sparsity", "seed"):
        trial.pop(key, None)
    where = [plain(result.environment), result.precision] if isinstance(result, Cost) else []
    use = json.dumps([DIGEST.sub("", text), criterion["schedule"], trial, where], sort_keys=True, default=list)
    return use, (tuple(DIGEST.findall(text)), criterion["revision"])


def current(versions: dict[Version, list[Result]]) -> set[Version]:
    """The newest of some versions, several where that is not known."""
    latest = {version: max(finished(result) for result in found) for version, found in versions.items()}
    if len({hashes for hashes, _ in versions}) == 1:
        return {max(versions, key=lambda version: version[1])}
    return {version for version, time in latest.items() if time == max(latest.values())}


def finished(result: Record | Cost | Collapse) -> str:
    """When a result was made; empty if it does not say."""
    return result.provenance.finished or ""


def described(result: Record | Cost | Collapse) -> str:
    """The name of a version."""
    criterion = result.trial["criterion"]
    revision = "" if DIGEST.search(criterion["name"]) else f", revision {criterion['revision']}"
    return f"{criterion['name']}{revision}"
