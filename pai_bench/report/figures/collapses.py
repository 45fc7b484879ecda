"""Figures of where networks fall apart. The same results give the same bytes."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.colors import LogNorm

from pai_bench.report.figures.style import COLLAPSED_COLOUR, canvas, literal, looks, plain
from pai_bench.results import Collapse, Tried

COLUMNS = 3
"""Panels beside each other."""


def effective(title: str, collapses: Mapping[str, list[Collapse]], path: Path) -> None:
    """Effective against direct compression, a line for each criterion that ends where the network is cut.

    On the diagonal, every connection that is kept is effective.
    """
    with canvas(path, height=4.6) as figure:
        axes = figure.subplots()
        for name, look in looks(list(collapses)).items():
            colour, marker, line = look
            points = [(s, e) for s, e in means(collapses[name]) if e < 1]
            axes.plot(
                [1 / (1 - s) for s, _ in points],
                [1 / (1 - e) for _, e in points],
                color=colour,
                marker=marker,
                linestyle=line,
                markersize=4,
                linewidth=1.4,
                label=literal(name),
            )
            ends = [one.connected_until for one in collapses[name] if one.connected_until is not None]
            if ends and any(one.cut_from is not None for one in collapses[name]):
                axes.axvline(1 / (1 - fmean(ends)), color=colour, linewidth=0.8, linestyle=":")
        end = axes.get_xlim()[1]
        axes.plot([2, end], [2, end], color="#888888", linewidth=0.8, zorder=0)
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain(axes.xaxis)
        plain(axes.yaxis)
        axes.set_xlabel("compression, 1 / (1 - sparsity); dotted: the end of connection")
        axes.set_ylabel("effective compression")
        axes.set_title(literal(title), fontsize=11)
        axes.legend(frameon=False, fontsize=8)


def means(same: list[Collapse]) -> list[tuple[float, float]]:
    """(direct, effective) sparsity at the sparsities examined in full, means over the seeds that are connected."""
    found: dict[float, list[Tried]] = {}
    for collapse in same:
        for tried in collapse.tried:
            if tried.effective_sparsity is not None and tried.connected:
                found.setdefault(tried.sparsity, []).append(tried)
    return [(s, fmean(t.effective_sparsity or 0.0 for t in tried)) for s, tried in sorted(found.items())]


def layers(title: str, collapses: Mapping[str, list[Collapse]], path: Path) -> None:
    """A heat map for each criterion: the density of every layer, from the input down, along compression.

    White is a layer that keeps nothing; the line is the end of connection. The first seed of each.
    """
    first = {name: same[0] for name, same in collapses.items()}
    names = list(next(iter(first.values())).layers_until)
    rows, columns = -(-len(first) // COLUMNS), min(COLUMNS, len(first))
    with canvas(path, 3.1 * columns + 1.6, (0.9 + 0.16 * len(names)) * rows + 0.8) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        lowest = min(1 / one.size for one in first.values())
        image = None
        for axes, (name, collapse) in zip(grid.flat, first.items(), strict=False):
            tried = [one for one in collapse.tried if one.sparsity < 1]
            edges = edges_of([1 / (1 - one.sparsity) for one in tried])
            densities = np.array([one.densities for one in tried]).T
            image = axes.pcolormesh(
                edges,
                np.arange(len(names) + 1),
                np.ma.masked_equal(densities, 0),
                norm=LogNorm(lowest, 1),
                cmap="viridis",
                rasterized=True,
            )
            if collapse.connected_until is not None and collapse.cut_from is not None:
                axes.axvline(1 / (1 - collapse.connected_until), color=COLLAPSED_COLOUR, linewidth=1.2)
            axes.set_xscale("log")
            plain(axes.xaxis)
            axes.set_title(literal(name), fontsize=8)
            axes.tick_params(labelsize=6)
        for axes in grid.flat[len(first) :]:
            axes.set_visible(False)
        for axes in grid.flat[max(0, len(first) - columns) : len(first)]:  # the lowest that is there
            axes.tick_params(labelbottom=True)
        grid[0, 0].set_yticks(np.arange(len(names)) + 0.5, [literal(name) for name in names])
        grid[0, 0].invert_yaxis()
        figure.supxlabel("compression, 1 / (1 - sparsity); red: the end of connection", fontsize=8)
        figure.suptitle(literal(title), fontsize=10)
        if image is not None:
            bar = figure.colorbar(
                image, ax=grid, use_gridspec=False, label="density of the layer (white: nothing kept)", shrink=0.8
            )
            plain(bar.ax.yaxis)


def edges_of(places: list[float]) -> list[float]:
    """Borders between places on a logarithmic scale, and beyond the outer ones."""
    logs = np.log(np.asarray(places))
    if len(logs) == 1:
        return [float(places[0]) / 1.5, float(places[0]) * 1.5]
    middle = (logs[1:] + logs[:-1]) / 2
    borders = np.concatenate([[2 * logs[0] - middle[0]], middle, [2 * logs[-1] - middle[-1]]])
    return [float(value) for value in np.exp(borders)]
