"""Our accuracies beside published ones, with what was done differently."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes, plugin_facts
from pai_bench.report.plugin_facts import CriterionFacts
from pai_bench.report.published_numbers import Published, published, rivals
from pai_bench.report.statistics import FEWEST, PERCENT, Estimate, estimate, t_quantile
from pai_bench.report.summary import Comparison, plural
from pai_bench.report.tables import Table, code, escaped
from pai_bench.support.registry import PROTOCOLS

SAME = 0.01
"""Densities that differ by less than this share of them are the same."""


@dataclass(frozen=True)
class Beside:
    """A published number and what we found: last epoch, and best on the test set."""

    theirs: Published
    method: str
    sparsity: float
    last: Estimate
    best: Estimate
    collapsed: int = 0
    """Of our seeds, those at chance or disconnected."""
    resolution: float = 0.0
    """What one example of our test set counts, in points."""
    classes: float = math.nan
    """Of the data set."""

    @property
    def ours(self) -> Estimate:
        """Chosen as theirs was."""
        return self.best if self.theirs.best_on_test else self.last

    @property
    def difference(self) -> float:
        """Ours minus theirs, in points."""
        return self.ours.mean - self.theirs.accuracy

    @property
    def inside(self) -> str:
        """Whether a mean over as many runs as theirs could well come out like theirs, by the spread of our seeds.

        The prediction interval of a mean of k further runs, ours ± t s sqrt(1/n + 1/k); k = 1 where it is not known.
        It takes `FEWEST` seeds, and networks that have all learnt something: else nearly everything would be inside.
        """
        n, k = self.ours.count, self.theirs.seeds or 1
        if n < FEWEST:
            return "too few seeds"
        if self.collapsed:
            return f"{plural(self.collapsed, 'seed')} at chance"
        deviation = max(self.ours.deviation, self.resolution)
        half = t_quantile(n - 1) * deviation * math.sqrt(1 / n + 1 / k)
        return "yes" if abs(self.difference) <= half else "no"


def match_published(comparison: Comparison) -> list[Beside]:
    """What is published of the network, data set, criteria and sparsities of a comparison."""
    numbers = [p for p in published() if (p.data, p.model) == (comparison.facts.data, comparison.model)]
    if not comparison.trained or not numbers:
        return []
    rows = comparison.rows[comparison.rows.status != "failed"]
    found, resolution, classes = [], comparison.resolution, comparison.facts.classes
    for (criterion, method, sparsity), group in rows.groupby(["criterion", "method", "sparsity"], sort=False):
        if not as_published(group, comparison.facts.criteria):
            continue
        name, options = without_options(str(criterion))
        columns = (group[key].to_numpy(dtype=float) for key in ("test_accuracy", "best_accuracy"))
        last, best = (estimate(100 * column, PERCENT) for column in columns)
        fallen = int(outcomes.collapsed(group).sum())
        same = [p for p in numbers if p.criterion == name and alike(p.sparsity, float(str(sparsity)))]
        law = options.get("score-init", "redrawn")  # SNIP's own code scores another draw, too
        init = group.iloc[0].init
        same = [p for p in same if p.initialisations == ((None, "own") if law == "redrawn" else (law, init))]
        batch = group.iloc[0].score_batch
        same = [p for p in same if not p.note.startswith("score batch") or p.note == f"score batch {batch:.0f}"]
        found += [
            Beside(theirs, str(method), float(str(sparsity)), last, best, fallen, resolution, classes)
            for theirs in same
        ]
    return found


CHOICES = ("bn", "score-init")
"""Options on which codes of one criterion disagree: a published number stands beside each value, which is named."""


def without_options(criterion: str) -> tuple[str, dict[str, str]]:
    """The name of a criterion without its `CHOICES`, and these."""
    name, *given = criterion.split(":")
    options = dict(part.split("=", 1) for part in given if part.split("=")[0] in CHOICES)
    others = [part for part in given if part.split("=")[0] not in CHOICES]
    return ":".join([name, *others]), options


def alike(one: float, other: float) -> bool:
    """Whether two sparsities leave as much of a network, up to a share of it."""
    return abs(math.log((1 - one) / (1 - other))) < SAME


def as_published(rows: pd.DataFrame, facts: Mapping[str, CriterionFacts] | None = None) -> bool:
    """Whether a criterion was used as its paper does, so that a published number can stand beside it.

    `facts` about criteria are looked up if not given.
    """
    first = rows.iloc[0]
    if first.label_noise or first.validation:
        return False
    if first.criterion == DENSE:
        return True
    name, _ = without_options(first.criterion)
    own = (plugin_facts.criteria([name]) if facts is None else facts).get(name, CriterionFacts())
    ways = ("variant", "schedule", "scope", "target", "min_per_layer", "repair", "prunable")
    used = tuple(first[way] for way in ways)
    whole = not str(first.score_sampling).startswith("class-")
    return whole and used == ("none", own.schedule, own.scope, "direct", 0, "none", "usual")


def table(found: Sequence[Beside]) -> Table:
    """A row for each published number."""
    head = [
        "criterion",
        "sparsity (/ theirs)",
        "ours, last epoch",
        "ours, best on test",
        "published",
        "epoch",
        "difference",
    ]
    head += ["inside our spread", "source"]
    body = []
    for one in found:
        theirs = one.theirs
        body.append(
            [
                one.method if one.method != DENSE else "dense",
                " / ".join(dict.fromkeys(f"{s:.10g}" for s in (one.sparsity, theirs.sparsity))),
                spread(one.last.mean, one.last.deviation, one.last.count),
                spread(one.best.mean, one.best.deviation, one.best.count) if theirs.best_on_test else "",
                spread(theirs.accuracy, theirs.deviation, theirs.seeds)
                + ", at chance" * at_chance(theirs, one.classes),
                theirs.selection,
                f"{one.difference:+.2f}",
                one.inside,
                of(theirs),
            ]
        )
    return [head, *body]


def quoted_beside(found: Sequence[Beside], comparison: Comparison) -> Table:
    """A row for each method that the tables of `found` quote beside their own; the head alone if there is none."""
    tables = {(one.theirs.source, one.theirs.table) for one in found}
    body = [
        [one.criterion, f"{one.sparsity:.10g}", spread(one.accuracy, one.deviation, one.seeds), of(one)]
        for one in rivals()
        if (one.source, one.table) in tables and (one.data, one.model) == (comparison.facts.data, comparison.model)
    ]
    return [["method", "sparsity", "published", "source"], *body]


def of(theirs: Published) -> str:
    """Where a published number stands, and what is noted of it."""
    return f"{theirs.source}, {theirs.table}" + (f"; {theirs.note}" if theirs.note else "")


def at_chance(theirs: Published, classes: float) -> bool:
    """Whether a published accuracy is that of guessing, as of networks that their masks have emptied."""
    share = 1 / classes
    return theirs.accuracy / 100 <= share + outcomes.MARGIN * (1 - share)


def spread(mean: float, deviation: float, count: int | None) -> str:
    """A mean with its deviation and number of runs, as far as they are known."""
    text = f"{mean:.2f}" + ("" if math.isnan(deviation) else f" ± {deviation:.2f}")
    return text + (f" ({count})" if count else "")


def protocols(found: Sequence[Beside], comparison: Comparison) -> Iterator[str]:
    """How ours were trained, and how the published networks were, where we know it, and what is not the same.

    In markdown, what records hold escaped.
    """
    ours = setting(map(escaped, comparison.protocol_parts), comparison.train_fraction)
    yield f"Ours: {', '.join(ours)}."
    yield from chosen(found)
    if comparison.init != "own" and any(one.theirs.initialisations[0] is None for one in found):
        yield (
            f"Ours start from weights drawn by {code(comparison.init)}; how those of the published networks were drawn "
            "is not known to us where their note does not say it."
        )
    for source, name in dict.fromkeys((one.theirs.source, one.theirs.protocol) for one in found):
        if name is None:
            yield f"{source}: protocol not known to us."
            continue
        theirs = setting(PROTOCOLS[name].parts(), PROTOCOLS[name].train_fraction)
        yield f"{source}: {', '.join(theirs)} (`{name}`){PROTOCOLS[name].unstated}. {contrast(ours, theirs)}"


def chosen(found: Sequence[Beside]) -> Iterator[str]:
    """The options of ours that published numbers of the plain criterion stand beside."""
    for method, name, law in dict.fromkeys((b.method, b.theirs.criterion, b.theirs.initialisations[0]) for b in found):
        _, options = without_options(method.partition(", ")[0])
        if said := [f"{key}={value}" for key, value in options.items() if (key, value) != ("score-init", law)]:
            yield escaped(f"{method}: beside published numbers of {name}. Ours has the option {' and '.join(said)}.")


def setting(protocol: Iterable[str], train_fraction: float) -> list[str]:
    """A protocol that is described in words, part by part, with the share of the training set that it uses."""
    return [*protocol, f"{100 * train_fraction:.4g} % of the training set"]


def contrast(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """What is in one of two settings and not in the other."""
    only_ours, only_theirs = ([part for part in a if part not in b] for a, b in ((ours, theirs), (theirs, ours)))
    if not only_ours and not only_theirs:
        return "Ours are the same."
    return f"What differs: {', '.join(only_theirs) or 'nothing more'}; ours: {', '.join(only_ours) or 'nothing more'}."
