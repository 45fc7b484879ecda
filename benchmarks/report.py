"""A markdown report of measurements, with a figure."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pai_bench.support.environment import commit, without_paths

Row = dict[str, Any]


def write_report(path: Path, rows: Sequence[Row], arguments: Sequence[str]) -> None:
    """Write a table and a figure of the ratios, and how to measure them again."""
    rows = sorted(rows, key=lambda row: row["group"])
    figure = path.parent / "figures" / f"{path.stem}-ratios.svg"
    draw(rows, figure)
    revision, dirty = commit()
    environment = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    command = shlex.join(["pytest", *(without_paths(argument) for argument in arguments[1:])])
    path.write_text(
        "\n\n".join(
            [
                "# Training speed",
                "Each piece of work is measured in turn with its floor, its reference. Seconds "
                "are medians, with the interquartile range. The ratio is that of the seconds; below 1, the work is "
                "faster than its floor. For a training step, the floor is the products of its linear and convolutional "
                "layers alone, forward and backward, each in its fastest memory format (all: three products for each "
                "layer; needed: without the product for the input of the network, which no step computes). For lanes, "
                "it is the same steps one after the other. Otherwise, the name of the group says what it is.",
                table(rows),
                f"![Ratios to the floors]({figure.relative_to(path.parent).as_posix()})",
                "## How these numbers were made",
                f"* Command: {command}\n"
                f"* Environment: {environment['device']}; {environment['processor']}, "
                f"{environment['threads']} threads, {environment['system']}; {versions}\n"
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
    """Images per second, or trials per hour."""
    if f"{prefix}trials_per_second" in row:
        return f"{3600 * row[f'{prefix}trials_per_second']:,.0f} trials/h"
    images = row.get(f"{prefix}images_per_second")
    return "" if images is None else f"{images:,.0f} images/s"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw a bar for each ratio, with a mark at its target."""
    labels = [f"{row['group']}\n{row['name'].partition('[')[2].rstrip(']')}" for row in rows]
    figure = Figure(figsize=(8, 0.6 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.barh(range(len(rows)), [row["ratio"] for row in rows], color="#4477aa", height=0.6)
    for position, row in enumerate(rows):
        if row["target"] is not None:
            axes.plot([row["target"]] * 2, [position - 0.4, position + 0.4], color="#cc3311", linewidth=2)
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("seconds divided by those of the floor; red: target", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
