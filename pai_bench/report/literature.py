"""Our accuracies beside published ones, with the differences between the protocols."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes, plugin_facts
from pai_bench.report.plugin_facts import CriterionFacts
from pai_bench.report.published_numbers import Published, published, quoted
from pai_bench.report.statistics import FEWEST, PERCENT, Estimate, estimate, t_quantile
from pai_bench.report.summary import Comparison, plural
from pai_bench.report.tables import Table, code, escaped, from_rows
from pai_bench.support.registry import PROTOCOLS

DENSITY_TOLERANCE = 0.01
"""Densities that differ by less than this share of them count as equal."""


@dataclass(frozen=True)
class Match:
    """A published accuracy and ours of the same use of a criterion, of the last and of the best epoch, in per cent."""

    theirs: Published
    method: str
    sparsity: float
    last: Estimate
    best: Estimate
    collapsed: int = 0
    """Our seeds that are at chance or disconnected."""
    resolution: float = 0.0
    """What one example of our test set counts, in points."""
    classes: float = math.nan
    """Of the data set."""

    @property
    def ours(self) -> Estimate:
        """Our accuracy, of the epoch that was chosen as theirs was."""
        return self.best if self.theirs.best_on_test else self.last

    @property
    def difference(self) -> float:
        """Ours minus theirs, in points."""
        return self.ours.mean - self.theirs.accuracy

    @property
    def inside(self) -> str:
        """Whether a mean over as many runs as theirs could well come out like theirs, by the spread of our seeds.

        The 95 % prediction interval of the mean of k further runs is ours ± t(0.975, n - 1) s sqrt(1/n + 1/k); k = 1
        where it is not known. It takes `FEWEST` seeds, none of them collapsed: else nearly everything would be inside.
        """
        n, k = self.ours.count, self.theirs.seeds or 1
        if n < FEWEST:
            return "too few seeds"
        if self.collapsed:
            return f"{plural(self.collapsed, 'seed')} at chance"
        half = t_quantile(n - 1) * max(self.ours.deviation, self.resolution) * math.sqrt(1 / n + 1 / k)
        return "yes" if abs(self.difference) <= half else "no"


def match_published(comparison: Comparison) -> list[Match]:
    """What is published of the network, data set, criteria and sparsities of a comparison."""
    numbers = [p for p in published() if (p.data, p.model) == (comparison.facts.data, comparison.model)]
    if not comparison.trained or not numbers:
        return []
    rows = comparison.rows[comparison.rows.status != "failed"]
    matches, resolution, classes = [], comparison.resolution, comparison.facts.classes
    for (criterion, method, sparsity), group in rows.groupby(["criterion", "method", "sparsity"], sort=False):
        if not as_published(group, comparison.facts.criteria):
            continue
        name, options = without_options(str(criterion))
        first, density = group.iloc[0], 1 - float(str(sparsity))
        score_init = options.get("score-init", "redrawn")  # as SNIP's own code does
        initialisations = (None, "own") if score_init == "redrawn" else (score_init, first.init)
        columns = (group[key].to_numpy(dtype=float) for key in ("test_accuracy", "best_accuracy"))
        last, best = (estimate(100 * column, PERCENT) for column in columns)
        collapsed = int(outcomes.collapsed(group).sum())
        matches += [
            Match(theirs, str(method), float(str(sparsity)), last, best, collapsed, resolution, classes)
            for theirs in numbers
            if (theirs.criterion, theirs.initialisations) == (name, initialisations)
            and abs(math.log(density / (1 - theirs.sparsity))) < DENSITY_TOLERANCE
            and (not theirs.note.startswith("score batch") or theirs.note == f"score batch {first.score_batch:.0f}")
        ]
    return matches


UNSETTLED = ("bn", "score-init")
"""Options on which published codes of one criterion disagree: a number is shown beside each value, which is named."""


def without_options(criterion: str) -> tuple[str, dict[str, str]]:
    """The name of a criterion without its `UNSETTLED` options, and these."""
    name, *parts = criterion.split(":")
    options = dict(part.split("=", 1) for part in parts if part.split("=")[0] in UNSETTLED)
    return ":".join([name, *(part for part in parts if part.split("=")[0] not in UNSETTLED)]), options


def as_published(rows: pd.DataFrame, facts: Mapping[str, CriterionFacts] | None = None) -> bool:
    """Whether a criterion was used as in its paper, so that a published number can be compared.

    `facts` about criteria are looked up if None.
    """
    first = rows.iloc[0]
    if first.label_noise or first.validation or first.length != "epochs":
        return False
    if first.criterion == DENSE:
        return True
    name, _ = without_options(first.criterion)
    known = plugin_facts.criteria([name]) if facts is None else facts
    own = known.get(plugin_facts.criterion_of(name), CriterionFacts())
    settings = ("variant", "schedule", "scope", "target", "min_per_layer", "repair", "prunable", "prune_at")
    used = tuple(first[setting] for setting in settings)
    all_classes = not str(first.score_sampling).startswith("class-")
    return all_classes and used == ("none", own.schedule, own.scope, "direct", 0, "none", "usual", "0")


def table(matches: Sequence[Match]) -> Table:
    """A row for each published number."""
    rows = []
    for match in matches:
        theirs = match.theirs
        chance = ", at chance" if at_chance(theirs, match.classes) else ""
        rows.append(
            {
                "criterion": match.method if match.method != DENSE else "dense",
                "sparsity (/ theirs)": " / ".join(
                    dict.fromkeys(f"{s:.10g}" for s in (match.sparsity, theirs.sparsity))
                ),
                "ours, last epoch": spread(match.last.mean, match.last.deviation, match.last.count),
                "ours, best on test": spread(match.best.mean, match.best.deviation, match.best.count)
                if theirs.best_on_test
                else "",
                "published": spread(theirs.accuracy, theirs.deviation, theirs.seeds) + chance,
                "epoch": theirs.selection,
                "difference": f"{match.difference:+.2f}",
                "inside our spread": match.inside,
                "source": source(theirs),
            }
        )
    return from_rows(rows)


def quoted_methods(matches: Sequence[Match], comparison: Comparison) -> Table:
    """A row for each method that the tables of `matches` quote beside their own; empty if there is none."""
    network = (comparison.facts.data, comparison.model)
    tables = {(match.theirs.source, match.theirs.table) for match in matches}
    rows = [
        {
            "method": one.criterion,
            "sparsity": f"{one.sparsity:.10g}",
            "published": spread(one.accuracy, one.deviation, one.seeds),
            "source": source(one),
        }
        for one in quoted()
        if (one.source, one.table) in tables and (one.data, one.model) == network
    ]
    return from_rows(rows) if rows else []


def source(theirs: Published) -> str:
    """Where a number is published, and the note on it."""
    return f"{theirs.source}, {theirs.table}" + (f"; {theirs.note}" if theirs.note else "")


def at_chance(theirs: Published, classes: float) -> bool:
    """Whether a published accuracy is that of guessing, as of networks with empty layers."""
    share = 1 / classes
    return theirs.accuracy / 100 <= share + outcomes.MARGIN * (1 - share)


def spread(mean: float, deviation: float, count: int | None) -> str:
    """A mean with its deviation and number of runs, as far as they are known."""
    text = f"{mean:.2f}" + ("" if math.isnan(deviation) else f" ± {deviation:.2f}")
    return text + (f" ({count})" if count else "")


def protocols(matches: Sequence[Match], comparison: Comparison) -> Iterator[str]:
    """How ours were trained, how the published networks were, where that is known, and the differences.

    In markdown: what records hold is escaped.
    """
    ours = setting(map(escaped, comparison.protocol_parts), comparison.train_fraction)
    yield f"Ours: {', '.join(ours)}."
    uses = dict.fromkeys((m.method, m.theirs.criterion, m.theirs.initialisations[0]) for m in matches)
    for method, criterion, score_init in uses:
        _, options = without_options(method.partition(", ")[0])
        if own := [f"{key}={value}" for key, value in options.items() if (key, value) != ("score-init", score_init)]:
            yield escaped(
                f"{method}: beside published numbers of {criterion}. Ours has the option {' and '.join(own)}."
            )
    if comparison.init != "own" and any(match.theirs.initialisations[0] is None for match in matches):
        yield (
            f"Ours start from weights drawn by {code(comparison.init)}; how those of the published networks were drawn "
            "is not known to us where their note does not say it."
        )
    for paper, name in dict.fromkeys((match.theirs.source, match.theirs.protocol) for match in matches):
        if name is None:
            yield f"{paper}: protocol not known to us."
            continue
        theirs = setting(PROTOCOLS[name].parts(), PROTOCOLS[name].train_fraction)
        yield f"{paper}: {', '.join(theirs)} (`{name}`){PROTOCOLS[name].unstated}. {contrast(ours, theirs)}"


def setting(protocol: Iterable[str], train_fraction: float) -> list[str]:
    """The parts of a protocol in words, with the share of the training set that it uses."""
    return [*protocol, f"{100 * train_fraction:.4g} % of the training set"]


def contrast(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """What is in only one of two settings."""
    only_ours, only_theirs = ([part for part in a if part not in b] for a, b in ((ours, theirs), (theirs, ours)))
    if not only_ours and not only_theirs:
        return "Ours are the same."
    return f"What differs: {', '.join(only_theirs) or 'nothing more'}; ours: {', '.join(only_ours) or 'nothing more'}."
