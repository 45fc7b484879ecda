"""The part of a report about what benchmarks measured and checked."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from pai_bench.report import tables
from pai_bench.report.figures import bar_charts
from pai_bench.results import BenchmarkResult
from pai_bench.results.measurements import Value
from pai_bench.results.values import Number, fits

CAPTION = (
    "A check has *passed* if none of its values is above its limit, which stands in the head of the column or, where "
    "limits differ, behind the value; what has no limit was *measured*. In the figures, a red line is a limit."
)


def section(results: Sequence[BenchmarkResult], folder: Path, figure_for: Callable[[str], Path]) -> list[str]:
    """Tables and figures of `results`, one of each for every group and device; draws below `folder`.

    `figure_for` gives the path of a figure with a title.
    """
    parts = ["## What was checked and measured", CAPTION, tables.markdown(overview(results)), *failures(results)]
    for group in groups(results):
        heading = title(group[0])
        parts += [f"### {tables.escaped(heading)}", tables.markdown(table(group))]
        if drawn := [one for one in group if one.bar is not None and fits(one.values.get(one.bar), Number)]:
            figure = figure_for(f"measured {heading}")
            bar_charts.benchmarks(heading, drawn, folder / figure)
            parts.append(tables.image(f"{heading}: {drawn[0].bar}", figure))
    return parts


def groups(results: Sequence[BenchmarkResult]) -> list[list[BenchmarkResult]]:
    """A list of results for each table, in the order of the groups' names."""
    by_table = tables.grouped(results, lambda result: str((title(result), result.environment)))
    return [sorted(group, key=lambda result: natural(result.name)) for _, group in sorted(by_table.items())]


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which "4 networks" comes before "16 networks"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.replace(",", " ").split()]


def title(result: BenchmarkResult) -> str:
    """Stage, group and machine."""
    return f"{result.stage}: {result.group}, {tables.machine(result)}"


def overview(results: Sequence[BenchmarkResult]) -> tables.Table:
    """How many results of each stage have passed, failed, were skipped or measured, by machine."""
    counts = Counter((result.stage, tables.machine(result), str(result.status)) for result in results)
    states = ("passed", "failed", "skipped", "measured")
    rows = sorted({(stage, machine) for stage, machine, _ in counts})
    return [["stage", "device", *states], *([*row, *(str(counts[*row, state]) for state in states)] for row in rows)]


def failures(results: Sequence[BenchmarkResult]) -> list[str]:
    """A list of what has failed, with the reason."""
    failed = sorted(
        (title(result), result.name, result.reason or "") for result in results if result.status == "failed"
    )
    return ["**Failed**", tables.bullets(f"{where}, {name}: {why}" for where, name, why in failed)] if failed else []


def table(group: Sequence[BenchmarkResult]) -> tables.Table:
    """One row for each result, one column for each value that any of them has."""
    keys = list(dict.fromkeys(key for result in group for key in result.values))
    limits: dict[str, float | None] = {}
    for key in keys:
        own = {result.limits.get(key) for result in group if key in result.values}
        limits[key] = own.pop() if len(own) == 1 else None
    head = ["", "result", *(key if (limit := limits[key]) is None else f"{key} (≤ {limit:.4g})" for key in keys)]
    body = [[one.name, one.status, *(cell(key, one, limits[key]) for key in keys)] for one in group]
    if any(result.reason for result in group):
        return [[*head, "note"], *([*row, result.reason or ""] for row, result in zip(body, group, strict=True))]
    return [head, *body]


def cell(key: str, result: BenchmarkResult, limit_of_all: float | None) -> str:
    """One value, with its limit where that is not the whole column's."""
    if (value := result.values.get(key)) is None:
        return ""
    limit = result.limits.get(key)
    return written(key, value) + (f" (≤ {limit:.4g})" if limit is not None and limit != limit_of_all else "")


def written(key: str, value: Value) -> str:
    """A value in the unit that the last word of its name says."""
    if isinstance(value, str) or value is None:
        return value or ""
    if key.endswith("seconds"):
        return tables.duration(value) if value >= 1e-4 else f"{1e6 * value:.3g} µs"
    if key.endswith("bytes"):
        return tables.size(value)
    large_or_whole = value == round(value) or abs(value) >= 1e4
    return f"{value:,.0f}" if large_or_whole and abs(value) < 1e15 else f"{value:.4g}"
