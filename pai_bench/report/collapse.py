"""The part of a report about layer collapse: where networks are no longer connected."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from pai_bench.report import tables
from pai_bench.report.figures import collapses as figures
from pai_bench.report.plugin_facts import network_on
from pai_bench.report.summary import share
from pai_bench.results import Collapse

CAPTION = (
    "No training. A network is *connected* while some output depends on some input through kept connections, and a "
    "connection is *effective* if it lies on such a path. Means over seeds, with the range where they differ. One-shot "
    "criteria are scored once; where they rank all layers together, their end is exact, to the connection. That of "
    "iterative ones lies between the last sparsity tried at which the network was connected, as in the table, and the "
    "next; that of a layer is the last tried at which it kept something, or 0."
)


def section(collapses: Sequence[Collapse], folder: Path, figure_for: Callable[[str], Path]) -> list[str]:
    """Tables and figures of `collapses`, for every network and data set; draws below `folder`.

    `figure_for` gives the path of a figure with a title.
    """
    parts = ["## Where networks fall apart", CAPTION]
    for group in groups(collapses):
        heading, methods = title(group[0]), by_criterion(group)
        effective, layers = figure_for(f"effective {heading}"), figure_for(f"layers {heading}")
        figures.effective_compression(heading, methods, folder / effective)
        figures.layer_densities(heading, methods, folder / layers)
        seeds = ", ".join(map(str, sorted({collapse.trial["seed"] for collapse in group})))
        parts += [
            f"### {tables.escaped(heading)}",
            f"{group[0].size:,} prunable weights, seeds {seeds}.",
            tables.markdown(table(group)),
            tables.image(f"Effective against direct compression, {heading}", effective),
            tables.image(f"Density of each layer along sparsity, {heading}", layers),
            "Effective sparsity at the sparsities tried by all:",
            tables.markdown(effective_table(group)),
            "Highest sparsity at which a layer keeps a connection:",
            tables.markdown(layer_table(group)),
        ]
    return parts


def groups(collapses: Sequence[Collapse]) -> list[list[Collapse]]:
    """Collapses of one network, data set and score batch."""

    def key(collapse: Collapse) -> str:
        setting = {name: v for name, v in collapse.trial.items() if name not in ("criterion", "scope", "seed")}
        return json.dumps([title(collapse), collapse.size, list(collapse.layers_until), setting], sort_keys=True)

    ordered = sorted(collapses, key=lambda collapse: (collapse.trial["criterion"]["name"], collapse.trial["seed"]))
    return [group for _, group in sorted(tables.grouped(ordered, key).items())]


def by_criterion(group: Sequence[Collapse]) -> dict[str, list[Collapse]]:
    """Criterion -> its collapses over seeds; those that stay connected longest come first.

    Where a criterion was used in several ways, what differs between them follows its name.
    """
    uses = tables.grouped(group, lambda one: json.dumps([one.trial["criterion"], one.trial["scope"]], sort_keys=True))
    methods = {}
    for seeds in uses.values():
        name, details = seeds[0].trial["criterion"]["name"], details_of(seeds[0])
        others = [details_of(other[0]) for other in uses.values() if other[0].trial["criterion"]["name"] == name]
        differing = [detail for detail in details if any(detail not in other for other in others)]
        methods[", ".join([name, *differing])] = seeds
    return dict(sorted(methods.items(), key=lambda item: -fmean(one.connected_until or 0 for one in item[1])))


def details_of(collapse: Collapse) -> list[str]:
    """Schedule, scope and options of a criterion."""
    options = [f"{key} {value}" for key, value in collapse.trial["criterion"]["options"]]
    return [schedule_of(collapse), str(collapse.trial["scope"]), *options]


def title(collapse: Collapse) -> str:
    """Network and data."""
    return network_on(collapse.trial)


def schedule_of(collapse: Collapse) -> str:
    """The schedule by which the masks were made."""
    return str(collapse.trial["criterion"]["schedule"])


def table(group: Sequence[Collapse]) -> tables.Table:
    """One row for each criterion: where it disconnects the network, and the layer that empties first."""
    rows = []
    for name, seeds in by_criterion(group).items():
        ends = [collapse.connected_until for collapse in seeds if collapse.connected_until is not None]
        first = [min(collapse.layers_until.items(), key=lambda item: item[1]) for collapse in seeds]
        rows.append(
            {
                "criterion": name,
                "schedule": schedule_of(seeds[0]),
                "connected until": mean_and_range(ends, share) if ends else "never",
                "compression": mean_and_range([1 / (1 - end) for end in ends], "{:,.4g}".format),
                "weights left": mean_and_range([round((1 - end) * seeds[0].size) for end in ends], "{:,.5g}".format),
                "cut first in": ", ".join(sorted({one.first_cut for one in seeds if one.first_cut})) or "–",
                "empties first": ", ".join(sorted({layer for layer, _ in first})),
                "at": mean_and_range([end for _, end in first], share),
            }
        )
    return tables.from_rows(rows)


def mean_and_range(values: Sequence[float], form: Callable[[float], str]) -> str:
    """A mean, and the range of the values where they differ; nothing without any."""
    if not values:
        return ""
    low, high = form(min(values)), form(max(values))
    return form(fmean(values)) + (f" ({low} to {high})" if low != high else "")


def effective_table(group: Sequence[Collapse]) -> tables.Table:
    """Effective sparsity by criterion at each sparsity at which all were examined; ‡ where no seed is connected."""
    examined = [{tried.sparsity for tried in one.tried if tried.effective is not None} for one in group]
    sparsities = sorted(set.intersection(*examined))
    body = []
    for name, seeds in by_criterion(group).items():
        row = [name]
        for sparsity in sparsities:
            tried = [tried for collapse in seeds for tried in collapse.tried if tried.sparsity == sparsity]
            cut = sum(not one.connected for one in tried)
            mean = fmean(one.effective_sparsity for one in tried if one.effective_sparsity is not None)
            mark = "" if not cut else " ‡" if cut == len(tried) else f" ({cut} ‡)"
            row.append(f"{share(mean)}{mark}")
        body.append(row)
    return [["criterion", *map(share, sparsities)], *body]


def layer_table(group: Sequence[Collapse]) -> tables.Table:
    """The highest sparsity at which each layer keeps a connection, by criterion; means over seeds."""
    methods = by_criterion(group)
    body = [
        [layer, *(share(fmean(one.layers_until[layer] for one in seeds)) for seeds in methods.values())]
        for layer in group[0].layers_until
    ]
    return [["layer", *methods], *body]
