"""The part of a report about where networks fall apart."""

import json
from collections import defaultdict
from collections.abc import Callable
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


def section(collapses: list[Collapse], folder: Path, figure_for: Callable[[str], Path]) -> list[str]:
    """Tables and figures of `collapses`, for every network and data set; draws below `folder`."""
    parts = ["## Where networks fall apart", CAPTION]
    for group in groups(collapses):
        heading = title(group[0])
        lines, layers = figure_for(f"effective {heading}"), figure_for(f"layers {heading}")
        figures.effective(heading, by_criterion(group), folder / lines)
        figures.layers(heading, by_criterion(group), folder / layers)
        heading = tables.escaped(heading)
        parts += [
            f"### {heading}",
            f"{group[0].size:,} prunable weights, seeds {', '.join(seeds(group))}.",
            tables.markdown(table(group)),
            f"![Effective against direct compression, {heading}]({lines.as_posix()})",
            f"![Density of each layer along sparsity, {heading}]({layers.as_posix()})",
            "Effective sparsity at the sparsities tried by all:",
            tables.markdown(effective_table(group)),
            "Highest sparsity at which a layer keeps a connection:",
            tables.markdown(layer_table(group)),
        ]
    return parts


def groups(collapses: list[Collapse]) -> list[list[Collapse]]:
    """Collapses of one network, data set and score batch."""
    found: defaultdict[str, list[Collapse]] = defaultdict(list)
    for one in sorted(collapses, key=lambda one: (one.trial["criterion"]["name"], one.trial["seed"])):
        shared = {key: value for key, value in one.trial.items() if key not in ("criterion", "scope", "seed")}
        found[json.dumps([title(one), one.size, list(one.layers_until), shared], sort_keys=True)].append(one)
    return [found[key] for key in sorted(found)]


def by_criterion(group: list[Collapse]) -> dict[str, list[Collapse]]:
    """Criterion -> its collapses over seeds; those that stay connected longest come first.

    What tells the uses of one criterion apart is written behind its name, where there are several.
    """
    uses: defaultdict[str, dict[str, list[Collapse]]] = defaultdict(dict)
    for one in group:
        use = json.dumps([one.trial["criterion"], one.trial["scope"]], sort_keys=True)
        uses[one.trial["criterion"]["name"]].setdefault(use, []).append(one)
    found = {}
    for name, ways in uses.items():
        for same in ways.values():
            details = [schedule_of(same[0]), same[0].trial["scope"]]
            details += [f"{key} {value}" for key, value in same[0].trial["criterion"]["options"]]
            others = [w[0] for w in ways.values() if w is not same]
            telling = [d for i, d in enumerate(details) if any(detail(other, i) != d for other in others)]
            found[", ".join([name, *telling])] = same
    return dict(sorted(found.items(), key=lambda item: -fmean(one.connected_until or 0 for one in item[1])))


def detail(one: Collapse, index: int) -> str:
    """Schedule, scope, or an option of a criterion."""
    options = [f"{key} {value}" for key, value in one.trial["criterion"]["options"]]
    return [schedule_of(one), str(one.trial["scope"]), *options][index]


def title(collapse: Collapse) -> str:
    """Network and data in a few words."""
    return network_on(collapse.trial)


def schedule_of(collapse: Collapse) -> str:
    """The schedule that the masks were made by."""
    return str(collapse.trial["criterion"]["schedule"])


def seeds(group: list[Collapse]) -> list[str]:
    """The seeds of a group, in order."""
    return [str(seed) for seed in sorted({one.trial["seed"] for one in group})]


def table(group: list[Collapse]) -> tables.Table:
    """One row for each criterion: the end of connection, what breaks there, and the layer that empties first."""
    head = [
        "criterion",
        "schedule",
        "connected until",
        "compression",
        "weights left",
        "cut first in",
        "empties first",
        "at",
    ]
    body = []
    for name, same in by_criterion(group).items():
        ends = [one.connected_until for one in same if one.connected_until is not None]
        first = [min(one.layers_until.items(), key=lambda item: item[1]) for one in same]
        body.append(
            [
                name,
                schedule_of(same[0]),
                span(ends, share) if ends else "never",
                span([1 / (1 - end) for end in ends], "{:,.4g}".format) if ends else "",
                span([round((1 - end) * same[0].size) for end in ends], "{:,.5g}".format) if ends else "",
                ", ".join(sorted({one.first_cut for one in same if one.first_cut})) or "–",
                ", ".join(sorted({layer for layer, _ in first})),
                span([end for _, end in first], share),
            ]
        )
    return [head, *body]


def span(values: list[float], form: Callable[[float], str]) -> str:
    """A mean, and the range around it where there is one."""
    low, high = form(min(values)), form(max(values))
    return form(fmean(values)) + (f" ({low} to {high})" if low != high else "")


def shared_sparsities(group: list[Collapse]) -> list[float]:
    """Sparsities at which all of a group were examined in full."""
    sets = [{one.sparsity for one in collapse.tried if one.effective is not None} for collapse in group]
    return sorted(set.intersection(*sets))


def effective_table(group: list[Collapse]) -> tables.Table:
    """Effective sparsity by criterion at each direct sparsity; a dagger where no seed is connected."""
    sparsities = shared_sparsities(group)
    body = []
    for name, same in by_criterion(group).items():
        row = [name]
        for sparsity in sparsities:
            tried = [one for collapse in same for one in collapse.tried if one.sparsity == sparsity]
            cut = sum(not one.connected for one in tried)
            mean = fmean(one.effective_sparsity for one in tried if one.effective_sparsity is not None)
            mark = "" if not cut else " ‡" if cut == len(tried) else f" ({cut} ‡)"
            row.append(f"{share(mean)}{mark}")
        body.append(row)
    return [["criterion", *map(share, sparsities)], *body]


def layer_table(group: list[Collapse]) -> tables.Table:
    """The end of each layer by criterion, the mean over seeds."""
    columns = by_criterion(group)
    body = [
        [layer, *(share(fmean(one.layers_until[layer] for one in same)) for same in columns.values())]
        for layer in group[0].layers_until
    ]
    return [["layer", *columns], *body]
