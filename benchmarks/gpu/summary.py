"""The last lines of a run: what has passed, what has failed and why, what is missing."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.archive import Archive
from benchmarks.gpu.ledger import Entry, Ledger


def summary(out: Path, stages: Sequence[str]) -> tuple[str, bool]:
    """The text about the archives in `out`, and whether nothing has failed."""
    parts, good = [], True
    for stage in stages:
        ledger = Ledger(Archive(out / f"{stage}.tar"))
        entries = list(ledger.entries.values())
        lines = [f"{stage}: {counts(entries)}" if entries else f"{stage}: nothing was done"]
        if ledger.error:
            lines.append(f"  failed: {ledger.error}")
        lines += [f"  failed: {one.title}: {one.reason}" for one in entries if one.status == "failed"]
        lines += listed(entries, "skipped") + listed(entries, "missing")
        good = good and not ledger.error and all(one.status != "failed" for one in entries)
        parts += lines
    return "\n".join(parts) + "\n", good


def counts(entries: Sequence[Entry]) -> str:
    """How many pieces have which end."""
    states = ("passed", "failed", "measured", "skipped", "missing")
    numbers = {state: sum(one.status == state for one in entries) for state in states}
    return ", ".join(f"{number} {state}" for state, number in numbers.items() if number or state in states[:2])


def listed(entries: Sequence[Entry], status: str) -> list[str]:
    """Pieces that were not done, by reason and group."""
    found: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in entries:
        if one.status == status:
            found[one.reason or ""][one.group].append(one.name)
    return [
        f"  {status} ({reason}): " + "; ".join(f"{group}: {' | '.join(names)}" for group, names in groups.items())
        for reason, groups in found.items()
    ]
