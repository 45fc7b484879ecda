"""The part of a report about what scoring costs."""

import re
import statistics
from collections import defaultdict
from pathlib import Path

from pai_bench.report import figures, tables
from pai_bench.store import Cost

CAPTION = (
    "Median seconds after a warm-up. A *score* is what a criterion takes under one mask; *pruning* is all of its cuts, "
    "with the selections. Beside them stand one bare pass, forward and backward, of the score batch in the same mode "
    "of batch norm, measured by turns with the score, and one training step of the protocol. Memory is the peak beyond "
    "what was held before: on a CPU the resident memory of the process, on a GPU what torch has allocated."
)


def section(costs: list[Cost], folder: Path) -> list[str]:
    """Tables and figures of `costs`, one of each for every network, data set and device; draws below `folder`."""
    parts = ["## What scoring costs", CAPTION]
    for heading, group in groups(costs).items():
        slug = re.sub(r"[^a-z0-9]+", "-", f"cost-{heading}".lower()).strip("-")[:100]
        figure = Path("figures") / f"{slug}.svg"
        figures.costs(heading, group, folder / figure)
        parts += [
            f"### {heading}",
            f"{describe(group)}.",
            tables.markdown(table(group)),
            f"![{heading}: seconds of scoring and pruning]({figure.as_posix()})",
        ]
    return parts


def groups(costs: list[Cost]) -> dict[str, list[Cost]]:
    """Costs by network, data and device, the fastest score first."""
    found: defaultdict[str, list[Cost]] = defaultdict(list)
    for cost in sorted(costs, key=lambda cost: cost.seconds):
        found[title(cost)].append(cost)
    return dict(found)


def describe(group: list[Cost]) -> str:
    """The sizes behind a table, and its units in seconds."""
    first = group[0]
    floors = " to ".join(dict.fromkeys(tables.duration(pick(c.floor_seconds for c in group)) for pick in (min, max)))
    step = tables.duration(statistics.median(cost.step_seconds for cost in group))
    return (
        f"{first.weights:,} prunable weights, score batch {first.score_batch}; a bare pass takes "
        f"{floors}, a training step on a batch of {first.step_batch} {step}"
    )


def title(cost: Cost) -> str:
    """Network, data and device in a few words."""
    device = cost.environment["device"] if cost.device != "cpu" else cost.environment["processor"]
    return f"{cost.model} on {cost.data}, {device}"


def table(costs: list[Cost]) -> tables.Table:
    """One row for each criterion: one score, and a whole pruning, in seconds, units and bytes."""
    head = [
        *("criterion", "batch norm", "score", "± IQR", "÷ bare pass", "÷ training step", "peak memory"),
        *("cuts", "pruning", "÷ training step", "peak memory"),
    ]
    body = [
        [
            cost.criterion,
            cost.batch_norm or "–",
            tables.duration(cost.seconds),
            tables.duration(cost.iqr),
            f"{cost.seconds / cost.floor_seconds:.3g}",
            f"{cost.seconds / cost.step_seconds:.3g}",
            tables.size(cost.peak_bytes),
            str(cost.cuts),
            tables.duration(cost.prune_seconds),
            f"{cost.prune_seconds / cost.step_seconds:.3g}",
            tables.size(cost.prune_peak_bytes),
        ]
        for cost in costs
    ]
    return [head, *floor_rows(costs), *body]


def floor_rows(costs: list[Cost]) -> tables.Table:
    """What a bare forward and backward pass took in each mode of batch norm: the median of what all criteria met."""
    modes: defaultdict[str | None, list[Cost]] = defaultdict(list)
    for cost in costs:
        modes[cost.batch_norm].append(cost)
    rows = []
    for mode, group in modes.items():
        seconds = statistics.median(cost.floor_seconds for cost in group)
        peak = max((cost.floor_peak_bytes for cost in group if cost.floor_peak_bytes is not None), default=None)
        units = f"{seconds / group[0].step_seconds:.3g}"
        rows.append(
            [
                "(bare pass)",
                mode or "–",
                tables.duration(seconds),
                "",
                "1",
                units,
                tables.size(peak),
                "",
                "",
                "",
                "",
            ]
        )
    return rows
