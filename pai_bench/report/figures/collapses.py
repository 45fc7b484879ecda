"""Figures of layer collapse: where networks are no longer connected."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm

from pai_bench.report.figures.style import COLLAPSED_COLOUR, canvas, literal, looks, plain
from pai_bench.results import Collapse

COLUMNS = 3
"""Panels beside each other."""


def effective_compression(title: str, collapses: Mapping[str, list[Collapse]], path: Path) -> None:
    """Effective against direct compression, a line for each criterion that ends where the network is disconnected.

    On the diagonal, every connection that is kept is effective.
    """
    with canvas(path, height=4.6) as figure:
        axes = figure.subplots()
        for name, (colour, marker, line) in looks(collapses).items():
            points = np.array([(s, e) for s, e in means(collapses[name]) if e < 1]).reshape(-1, 2)
            style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": line, "label": literal(name)}
            axes.plot(*(1 / (1 - points)).T, markersize=4, linewidth=1.4, **style)
            ends = [collapse.connected_until for collapse in collapses[name] if collapse.connected_until is not None]
            if ends and any(collapse.cut_from is not None for collapse in collapses[name]):
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


def means(collapses: Sequence[Collapse]) -> list[tuple[float, float]]:
    """(direct, effective) sparsity at the sparsities examined in full, means over the seeds that are connected."""
    effective: defaultdict[float, list[float]] = defaultdict(list)
    for tried in (tried for collapse in collapses for tried in collapse.tried):
        if tried.effective_sparsity is not None and tried.connected:
            effective[tried.sparsity].append(tried.effective_sparsity)
    return [(sparsity, fmean(values)) for sparsity, values in sorted(effective.items())]


def layer_densities(title: str, collapses: Mapping[str, list[Collapse]], path: Path) -> None:
    """A heat map for each criterion: the density of every layer, from the input down, along compression.

    White: a layer that keeps nothing. Line: the highest sparsity at which the network is connected. First seed of each.
    """
    first = {name: seeds[0] for name, seeds in collapses.items()}
    names = list(next(iter(first.values())).layers_until)
    rows, columns = -(-len(first) // COLUMNS), min(COLUMNS, len(first))
    with canvas(path, 3.1 * columns + 1.6, (0.9 + 0.16 * len(names)) * rows + 0.8) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        norm, image = LogNorm(min(1 / collapse.size for collapse in first.values()), 1), None
        for axes, (name, collapse) in zip(grid.flat, first.items(), strict=False):
            tried = [tried for tried in collapse.tried if tried.sparsity < 1]
            edges = edges_of([1 / (1 - tried.sparsity) for tried in tried]), np.arange(len(names) + 1)
            densities = np.ma.masked_equal(np.array([tried.densities for tried in tried]).T, 0)
            image = axes.pcolormesh(*edges, densities, norm=norm, cmap="viridis", rasterized=True)
            if collapse.connected_until is not None and collapse.cut_from is not None:
                axes.axvline(1 / (1 - collapse.connected_until), color=COLLAPSED_COLOUR, linewidth=1.2)
            axes.set_xscale("log")
            plain(axes.xaxis)
            axes.set_title(literal(name), fontsize=8)
            axes.tick_params(labelsize=6)
        for axes in grid.flat[len(first) :]:
            axes.set_visible(False)
        for axes in grid.flat[max(0, len(first) - columns) : len(first)]:  # the lowest of each column
            axes.tick_params(labelbottom=True)
        grid[0, 0].set_yticks(np.arange(len(names)) + 0.5, [literal(name) for name in names])
        grid[0, 0].invert_yaxis()
        figure.supxlabel("compression, 1 / (1 - sparsity); red: the end of connection", fontsize=8)
        figure.suptitle(literal(title), fontsize=10)
        if image is not None:
            label = "density of the layer (white: nothing kept)"
            plain(figure.colorbar(image, ax=grid, use_gridspec=False, label=label, shrink=0.8).ax.yaxis)


def edges_of(places: list[float]) -> list[float]:
    """Borders between places on a logarithmic scale, and beyond the outer ones."""
    if len(places) == 1:
        return [places[0] / 1.5, places[0] * 1.5]
    logs = np.log(places)
    middle = (logs[1:] + logs[:-1]) / 2
    borders = [2 * logs[0] - middle[0], *middle, 2 * logs[-1] - middle[-1]]
    return [float(border) for border in np.exp(borders)]
