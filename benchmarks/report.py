"""What was measured, as markdown with a figure."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pai_bench.support.environment import commit, without_paths

Row = dict[str, Any]


def write_report(path: Path, rows: Sequence[Row], arguments: Sequence[str]) -> None:
    """Write a table and a figure of the ratios, with all that is needed to measure them again."""
    rows = sorted(rows, key=lambda row: row["group"])
    figure = path.parent / "figures" / f"{path.stem}-ratios.svg"
    draw(rows, figure)
    revision, dirty = commit()
    first = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    command = shlex.join(["pytest", *(without_paths(argument) for argument in arguments[1:])])
    path.write_text(
        "\n\n".join(
            [
                "# Training speed",
                "Work and floor are measured by turns; seconds are medians, with the interquartile range. The ratio is "
                "of seconds: below 1, the work is faster than what it is measured against. A floor is, for a training "
                "step, the products of its linear and convolutional layers alone, forward and backward, each in the "
                "memory format that is fastest for it (all: three for each layer; needed: without the one for the "
                "network's input, which no step makes); for lanes, as many steps one after the other; else what the "
                "group's name says.",
                table(rows),
                f"![Ratios to the floors]({figure.relative_to(path.parent).as_posix()})",
                "## How these numbers were made",
                f"* Command: {command}\n"
                f"* Environment: {first['device']}; {first['processor']}, {first['threads']} threads, "
                f"{first['system']}; {versions}\n"
                f"* Commit: {revision}{' with changes' if dirty else ''}",
            ]
        )
        + "\n",
        encoding="utf-8",
    )


def table(rows: Sequence[Row]) -> str:
    """One row for each measurement."""
    head = ["work", "case", "seconds", "floor", "ratio", "at most", "rate", "floor's rate"]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: Row) -> list[str]:
    """A row of the table."""
    return [
        row["group"],
        row["name"].partition("[")[2].rstrip("]") or row["name"],
        f"{row['median_seconds']:.4g} (IQR {row['iqr_seconds']:.2g})",
        f"{row['floor_seconds']:.4g}",
        f"{row['ratio']:.3f}",
        "" if row["target"] is None else f"{row['target']:.3f}",
        rate(row, ""),
        rate(row, "floor_"),
    ]


def rate(row: Row, prefix: str) -> str:
    """Images in a second, or trials in an hour."""
    if f"{prefix}trials_per_second" in row:
        return f"{3600 * row[f'{prefix}trials_per_second']:,.0f} trials/h"
    found = row.get(f"{prefix}images_per_second")
    return "" if found is None else f"{found:,.0f} images/s"


def draw(rows: Sequence[Row], path: Path) -> None:
    """A bar for each ratio, with a mark where it is meant to end."""
    labels = [f"{row['group']}\n{row['name'].partition('[')[2].rstrip(']')}" for row in rows]
    figure = Figure(figsize=(8, 0.6 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.barh(range(len(rows)), [row["ratio"] for row in rows], color="#4477aa", height=0.6)
    for place, row in enumerate(rows):
        if row["target"] is not None:
            axes.plot([row["target"]] * 2, [place - 0.4, place + 0.4], color="#cc3311", linewidth=2)
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("seconds over the floor's; red: at most this", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
