"""The part of a report about what benchmarks measured and checked."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from pai_bench.report import tables
from pai_bench.report.figures.measurements import bars
from pai_bench.results import BenchmarkResult
from pai_bench.results.measurements import Value
from pai_bench.results.values import Number, fits

CAPTION = (
    "A check has *passed* if none of its values is above its limit, which stands in the head of the column or, where "
    "limits differ, behind the value; what has no limit was *measured*. In the figures, a red line is a limit."
)


def section(results: list[BenchmarkResult], folder: Path, figure_for: Callable[[str], Path]) -> list[str]:
    """Tables and figures of `results`, one of each for every group and device; draws below `folder`.

    `figure_for` gives the path of a figure with a title.
    """
    parts = ["## What was checked and measured", CAPTION, tables.markdown(overview(results)), *problems(results)]
    for group in groups(results):
        heading = title(group[0])
        parts += [f"### {tables.escaped(heading)}", tables.markdown(table(group))]
        if drawn := [one for one in group if one.bar is not None and fits(one.values.get(one.bar), Number)]:
            figure = figure_for(f"measured {heading}")
            bars(heading, drawn, folder / figure)
            parts.append(f"![{tables.escaped(heading)}: {tables.escaped(drawn[0].bar or '')}]({figure.as_posix()})")
    return parts


def groups(results: Sequence[BenchmarkResult]) -> list[list[BenchmarkResult]]:
    """Results that stand in one table, in the order of the groups' names."""
    found: defaultdict[str, list[BenchmarkResult]] = defaultdict(list)
    for one in sorted(results, key=lambda one: natural(one.name)):
        found[str((title(one), one.environment))].append(one)
    return [found[key] for key in sorted(found)]


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which "4 networks" comes before "16 networks"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.replace(",", " ").split()]


def title(one: BenchmarkResult) -> str:
    """Stage, group and device in a few words."""
    return f"{one.stage}: {one.group}, {machine(one)}"


def machine(one: BenchmarkResult) -> str:
    """The device, or the processor where that is the device."""
    return one.environment.device if one.device != "cpu" else one.environment.processor


def overview(results: Sequence[BenchmarkResult]) -> tables.Table:
    """How many results of each stage have passed, failed, were skipped or measured, by device."""
    counts = Counter[tuple[str, str, str]]((one.stage, machine(one), one.status) for one in results)
    states = ("passed", "failed", "skipped", "measured")
    rows = sorted({(one.stage, machine(one)) for one in results})
    return [["stage", "device", *states], *([*row, *(str(counts[*row, state]) for state in states)] for row in rows)]


def problems(results: Sequence[BenchmarkResult]) -> list[str]:
    """What has failed, with the reason."""
    failed = sorted((title(one), one.name, one.reason or "") for one in results if one.status == "failed")
    lines = [f"* {tables.escaped(f'{where}, {name}: {reason}')}" for where, name, reason in failed]
    return ["**Failed**", "\n".join(lines)] if lines else []


def table(group: Sequence[BenchmarkResult]) -> tables.Table:
    """One row for each result, one column for each value that any of them has."""
    keys = list(dict.fromkeys(key for one in group for key in one.values))
    shared = {key: {one.limits.get(key) for one in group if key in one.values} for key in keys}
    limits = {key: of.pop() if len(of) == 1 else None for key, of in shared.items()}
    notes = any(one.reason for one in group)
    head = ["", "result", *(key if limits[key] is None else f"{key} (≤ {limits[key]:.4g})" for key in keys)]
    body = [
        [
            one.name,
            one.status,
            *(cell(key, one, limits[key]) for key in keys),
            *([one.reason or ""] if notes else []),
        ]
        for one in group
    ]
    return [[*head, *(["note"] if notes else [])], *body]


def cell(key: str, one: BenchmarkResult, shared: float | None) -> str:
    """One value, with its limit where that is not the whole column's."""
    if (value := one.values.get(key)) is None:
        return ""
    own = one.limits.get(key)
    return written(key, value) + (f" (≤ {own:.4g})" if own is not None and own != shared else "")


def written(key: str, value: Value) -> str:
    """A value in the unit that the last word of its name says."""
    if isinstance(value, str) or value is None:
        return value or ""
    if key.endswith("seconds"):
        return tables.duration(value) if value >= 1e-4 else f"{1e6 * value:.3g} µs"
    if key.endswith("bytes"):
        return tables.size(value)
    if value == round(value) or abs(value) >= 1e4:
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:.4g}"
