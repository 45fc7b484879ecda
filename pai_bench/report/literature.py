"""Our accuracies beside published ones, with what was done differently."""

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import pandas as pd

from pai_bench.plan import DENSE
from pai_bench.report import chance
from pai_bench.report.statistics import FEWEST, PERCENT, Estimate, estimate, t_quantile
from pai_bench.report.summary import Comparison, parts_of, plural
from pai_bench.report.tables import Table
from pai_bench.training.protocol import PROTOCOLS

DATA = {"cifar10-jpeg": "cifar10", "tiny-imagenet-200": "tiny-imagenet"}
"""Our name of a data set -> that of the published table, where they differ."""

TRAINED_BY = {
    ("arXiv:1810.02340", "mnist", ""): "snip-mnist",
    ("arXiv:1810.02340", "mnist", "Adam 1e-3"): "snip-mnist-adam",
    ("arXiv:1810.02340", "cifar10", ""): "snip-cifar",
    ("arXiv:2006.05467", "cifar10", ""): "synflow-cifar",
    ("arXiv:2006.05467", "cifar100", ""): "synflow-cifar",
}
"""Source, data set and how the note of a number ends -> the protocol, as far as we know it."""

UNKNOWN = "; the number of iterations is not in the paper, 100,000 is our choice"

OURS = {"snip-mnist": UNKNOWN, "snip-mnist-adam": f"{UNKNOWN}, and so are the drops of the learning rate"}
"""Protocol -> what of it the paper does not say."""

SAME = 0.01
"""Densities that differ by less than this share of them are the same."""

SCHEDULES = {
    "iter-snip": "exponential:steps=60",
    "snip-it": "halving:steps=5",
    "force": "exponential:steps=60:returns=true",
    "synflow": "exponential:steps=100",
}
"""Criterion -> the schedule that it was published with, one-shot for the others."""


@dataclass(frozen=True)
class Published:
    """A published number, as accuracy in per cent."""

    source: str
    table: str
    data: str
    model: str
    criterion: str
    sparsity: float
    accuracy: float
    deviation: float
    """Sample standard deviation over `seeds` runs; NaN where it is not known."""
    seeds: int | None
    selection: str
    """How the epoch was chosen."""
    note: str

    @property
    def initialisations(self) -> tuple[str | None, str]:
        """Of the weights that were scored, None for those that were trained; and of these, ``own`` for the usual."""
        if found := re.match(r"score initialisation (\S+); training initialisation (\S+);", self.note):
            return found[1], found[2]
        return None, "own"

    @property
    def protocol(self) -> str | None:
        """The name of the protocol it was trained by, if we know it."""
        known = [
            (end, name)
            for (source, data, end), name in TRAINED_BY.items()
            if self.source.startswith(source) and self.data == data and self.note.endswith(end)
        ]
        return max(known)[1] if known else None  # the one that says most of the note

    @property
    def best_on_test(self) -> bool:
        """Whether the epoch was chosen by the test set."""
        return self.selection.startswith("max")


@cache
def published() -> tuple[Published, ...]:
    """All published numbers that we know of."""
    found = []
    with files("pai_bench.published").joinpath("accuracy.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            value = float(row["value"])
            found.append(
                Published(
                    source=row["source"],
                    table=row["table"],
                    data=row["dataset"],
                    model=row["model"],
                    criterion=row["criterion"],
                    sparsity=float(row["sparsity_percent"]) / 100,
                    accuracy=100 - value if row["metric"] == "test_error_percent" else value,
                    deviation=float(row["std"] or "nan"),
                    seeds=int(float(row["seeds"])) if row["seeds"] else None,
                    selection=row["selection"],
                    note=row["note"],
                )
            )
    return tuple(found)


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


def beside(comparison: Comparison) -> list[Beside]:
    """What is published of the network, data set, criteria and sparsities of a comparison."""
    data = DATA.get(comparison.data, comparison.data)
    known = [p for p in published() if (p.data, p.model) == (data, comparison.model)]
    if not comparison.trained or not known:
        return []
    rows = comparison.rows[comparison.rows.status != "failed"]
    found, resolution = [], comparison.resolution
    for (criterion, method, sparsity), group in rows.groupby(["criterion", "method", "sparsity"], sort=False):
        if not as_published(group):
            continue
        criterion, _, option = str(criterion).partition(":score-init=")
        columns = (group[name].to_numpy(dtype=float) for name in ("test_accuracy", "best_accuracy"))
        last, best = (estimate(100 * column, PERCENT) for column in columns)
        fallen = int(chance.collapsed(group).sum())
        same = [p for p in known if p.criterion == criterion and alike(p.sparsity, float(str(sparsity)))]
        law = None if option in ("", "redrawn") else option  # SNIP's own code scores another draw, too
        same = [p for p in same if p.initialisations == (law, group.iloc[0].init)]
        batch = group.iloc[0].score_batch
        same = [p for p in same if not p.note.startswith("score batch") or p.note == f"score batch {batch:.0f}"]
        found += [Beside(theirs, str(method), float(str(sparsity)), last, best, fallen, resolution) for theirs in same]
    return found


def alike(one: float, other: float) -> bool:
    """Whether two sparsities leave as much of a network, up to a share of it."""
    return abs(math.log((1 - one) / (1 - other))) < SAME


def as_published(rows: pd.DataFrame) -> bool:
    """Whether a criterion was used as its paper does, so that a published number can stand beside it."""
    first = rows.iloc[0]
    if first.label_noise or first.validation:
        return False
    if first.criterion == DENSE:
        return True
    schedule = SCHEDULES.get(first.criterion, "one-shot")
    scope = "quota" if first.criterion in ("er", "erk") else "global"
    used = (first.variant, first.schedule, first.scope, first.target, first.min_per_layer, first.repair)
    whole = not str(first.score_sampling).startswith("class-")
    return whole and used == ("none", schedule, scope, "direct", 0, "none")


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
        note = f"; {theirs.note}" if theirs.note else ""
        body.append(
            [
                one.method if one.method != DENSE else "dense",
                " / ".join(dict.fromkeys(f"{s:.10g}" for s in (one.sparsity, theirs.sparsity))),
                spread(one.last.mean, one.last.deviation, one.last.count),
                spread(one.best.mean, one.best.deviation, one.best.count) if theirs.best_on_test else "",
                spread(theirs.accuracy, theirs.deviation, theirs.seeds),
                theirs.selection,
                f"{one.difference:+.2f}",
                one.inside,
                f"{theirs.source}, {theirs.table}{note}",
            ]
        )
    return [head, *body]


def spread(mean: float, deviation: float, count: int | None) -> str:
    """A mean with its deviation and number of runs, as far as they are known."""
    text = f"{mean:.2f}" + ("" if math.isnan(deviation) else f" ± {deviation:.2f}")
    return text + (f" ({count})" if count else "")


def protocols(found: Sequence[Beside], comparison: Comparison) -> Iterator[str]:
    """How ours were trained, and how the published networks were, where we know it, and what is not the same."""
    ours = setting(comparison.protocol, comparison.train_fraction)
    yield f"Ours: {', '.join(ours)}."
    for source, name in dict.fromkeys((one.theirs.source, one.theirs.protocol) for one in found):
        if name is None:
            yield f"{source}: protocol not known to us."
            continue
        theirs = setting(PROTOCOLS[name].describe(), PROTOCOLS[name].train_fraction)
        yield f"{source}: {', '.join(theirs)} (`{name}`){OURS.get(name, '')}. {contrast(ours, theirs)}"


def setting(protocol: str, train_fraction: float) -> list[str]:
    """A protocol that is described in words, part by part, with the share of the training set that it uses."""
    return [*parts_of(protocol), f"{100 * train_fraction:.4g} % of the training set"]


def contrast(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """What is in one of two settings and not in the other."""
    only_ours, only_theirs = ([part for part in a if part not in b] for a, b in ((ours, theirs), (theirs, ours)))
    if not only_ours and not only_theirs:
        return "Ours are the same."
    return f"What differs: {', '.join(only_theirs) or 'nothing more'}; ours: {', '.join(only_ours) or 'nothing more'}."
