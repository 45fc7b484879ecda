"""Criteria of one comparison, two by two: which are told apart by their seeds, and what that says in words."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pai_bench.plan import DENSE
from pai_bench.report.statistics import DIGITS, LEVEL, Difference, Ranks, difference, holm, least_signed_rank, ranks
from pai_bench.report.summary import Comparison, plural
from pai_bench.report.tables import Table


@dataclass(frozen=True)
class Pair:
    """Two methods at one sparsity, the one with the higher mean first; differences are in points of accuracy."""

    sparsity: float
    better: str
    worse: str
    difference: Difference
    corrected: float
    """p of the paired t test, by Holm's correction over all pairs and sparsities of the comparison."""

    @property
    def apart(self) -> bool:
        """Whether the two differ at `LEVEL`; False also where that cannot be tested."""
        return self.corrected <= LEVEL

    def points(self, sign: int = 1, *, inside: bool = False) -> str:
        """The mean difference with its interval, in parentheses or, `inside` of others, behind a comma.

        With `sign` -1 it is that of the worse to the better.
        """
        found = self.difference.estimate
        low, high = sorted((sign * found.low, sign * found.high))
        interval = "" if math.isnan(low) else f"{low:.2f} to {high:.2f}"
        if not interval:
            return f"{sign * found.mean:.2f}"
        return f"{sign * found.mean:.2f}, {interval}" if inside else f"{sign * found.mean:.2f} points ({interval})"


def accuracies(comparison: Comparison) -> pd.DataFrame:
    """Test accuracy in per cent: a row for each seed, a column for each (method, sparsity); NaN for what has failed."""
    rows = comparison.rows[(comparison.rows.status != "failed") & (comparison.rows.criterion != DENSE)]
    found = rows.pivot_table(index="seed", columns=["method", "sparsity"], values="test_accuracy", aggfunc="mean")
    return 100 * found


def pairs(comparison: Comparison) -> list[Pair]:
    """All pairs of methods at each sparsity, over the seeds that both have."""
    table = accuracies(comparison)
    columns: dict[object, NDArray[np.float64]] = dict(zip(table.columns, table.to_numpy().T, strict=True))
    found = []
    for sparsity in comparison.sparsities:
        here = [method for method in comparison.methods if (method, sparsity) in columns]
        for one, other in itertools.combinations(here, 2):
            both = np.stack([columns[one, sparsity], columns[other, sparsity]], axis=1)
            both = both[~np.isnan(both).any(axis=1)]
            if not len(both):
                continue
            better, worse = (one, other) if both[:, 0].mean() >= both[:, 1].mean() else (other, one)
            sign = 1 if better == one else -1
            found.append((sparsity, better, worse, difference(sign * both[:, 0], sign * both[:, 1])))
    corrected = holm([d.p for *_, d in found])
    return [Pair(*one, p) for one, p in zip(found, corrected, strict=True)]


def sentences(comparison: Comparison, found: Sequence[Pair]) -> list[str]:
    """One sentence for each sparsity: the criterion with the highest mean, what it beats, and what it does not."""
    table, lines = accuracies(comparison), []
    for sparsity in comparison.sparsities:
        columns = {method: table[method, sparsity] for method in comparison.methods if (method, sparsity) in table}
        if not columns:
            continue
        here = pd.DataFrame(columns)
        common = here.dropna() if len(here.dropna()) else here  # what is compared is compared on the same seeds
        means = common.mean().round(DIGITS)
        leaders = [str(method) for method in means.index[means == means.max()]]
        leads = " has the highest" if len(leaders) == 1 else " have the same, highest"
        start = f"At sparsity {sparsity:.10g}, {listing(list(map(named, leaders)))}{leads} mean accuracy, "
        start += f"{means.max():.2f} %"
        if len(common) < here.count().max():  # cells in the table are over more seeds
            start += f" over the {plural(len(common), 'seed')} that all have"
        said = []
        for leader in leaders:
            others = {
                pair.worse if pair.better == leader else pair.better: pair
                for pair in found
                if pair.sparsity == sparsity and leader in (pair.better, pair.worse)
            }
            said.append(compared(leader, {name: pair for name, pair in others.items() if name not in leaders}))
        if len(leaders) > 1:
            each = [f"{named(one)}: {text}" for one, text in zip(leaders, said, strict=True) if text]
            lines.append(". ".join([start, *each]) + ".")
        elif not said[0]:
            lines.append(f"{start}; nothing {'with common seeds ' * (len(columns) > 1)}stands beside it.")
        else:
            lines.append(f"{start}{'.' if said[0].startswith('With') else ':'} {said[0]}.")
    return lines


def compared(best: str, against: Mapping[str, Pair]) -> str:
    """What the pairs of one criterion say of it; nothing without any."""
    seeds = {pair.difference.seeds for pair in against.values()}
    if not against:
        return ""
    if max(seeds) < 2:
        return f"With one seed it cannot be told from chance whether it differs from {', '.join(map(named, against))}"
    counts = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else plural(max(seeds), "seed")
    return "; ".join([*verdicts(best, against), counts])


def verdicts(best: str, against: Mapping[str, Pair]) -> list[str]:
    """What the pairs of one criterion with others say, others of one verdict together."""
    said: dict[str, list[str]] = {}
    for name, pair in against.items():
        sign = 1 if pair.better == best else -1
        if math.isnan(pair.difference.p):
            why = "one common seed" if pair.difference.seeds < 2 else "the same difference for all seeds"
            text = f"{named(name)} ({sign * pair.difference.estimate.mean:.2f}, {why})"
            said.setdefault("it could not be tested against", []).append(text)
        elif not pair.apart:
            text = f"{named(name)} ({pair.points(sign, inside=True)})"
            verdict = (
                "before correction alone it differs from"
                if pair.difference.p <= LEVEL
                else "it is not distinguishable from"
            )
            said.setdefault(verdict, []).append(text)
        elif sign > 0:
            said.setdefault("it beats", []).append(f"{named(name)} by {pair.points()}")
        else:
            said.setdefault("over the seeds of both it is beaten by", []).append(f"{named(name)} by {pair.points()}")
    order = ("it beats", "over the seeds", "before correction", "it is not", "it could not")
    return [f"{k} {listing(v)}" for start in order for k, v in said.items() if k.startswith(start)]


def named(method: str) -> str:
    """A method as it stands among others in a sentence: in quotes where its own commas would end it."""
    return f"“{method}”" if ", " in method else method


def listing(names: Sequence[str]) -> str:
    """Names as they stand in a sentence."""
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else "".join(names)


def power(found: Sequence[Pair]) -> str | None:
    """What the tests of a comparison rest on, and what its seeds cannot show."""
    tested = [pair for pair in found if not math.isnan(pair.difference.p)]
    if not tested:
        return "No pair could be tested: that takes two seeds, with differences that are not all the same."
    text = (
        f"Tests: paired t over seeds, two-sided, Holm's correction over the {plural(len(tested), 'pair')} of this "
        f"network and data set, so that in {100 * LEVEL:.0f} % of such families at most chance alone would be called a "
        "difference; the intervals are not corrected. "
    )
    text += "The exact signed-rank test, which does not ask for normal differences, stands beside it, uncorrected."
    if few := sorted(n for pair in tested if least_signed_rank(n := pair.difference.seeds) * len(tested) > LEVEL):
        seeds = plural(few[-1], "seed") if few[0] == few[-1] else f"{few[0]} to {few[-1]} seeds"
        text += (
            f" With the {seeds} of {'all' if len(few) == len(tested) else plural(len(few), 'pair')} it cannot give "
            f"less than {least_signed_rank(few[-1]):.3g}, which would not reject after the correction: that the t test "
            "holds there rests on differences being normal."
        )
    untested = len(found) - len(tested)
    return text + (f" {plural(untested, 'pair')} could not be tested." if untested else "")


def table(found: Sequence[Pair]) -> Table:
    """A row for each pair: the difference in points, its interval, effect size and tests."""
    head = [
        "sparsity",
        "criteria",
        "difference",
        f"{100 * (1 - LEVEL):.0f} % interval",
        "seeds",
        "effect d_z",
        "p",
        "p, Holm",
    ]
    head += ["signed rank p", ""]
    body = []
    for pair in found:
        one = pair.difference.estimate
        body.append(
            [
                f"{pair.sparsity:.10g}",
                f"{pair.better} – {pair.worse}",
                f"{one.mean:.2f}",
                "–" if math.isnan(one.low) or one.low == one.high else f"{one.low:.2f} to {one.high:.2f}",
                str(one.count),
                number(pair.difference.effect, "{:.2f}"),
                number(pair.difference.p),
                number(pair.corrected),
                number(pair.difference.wilcoxon),
                "differ" if pair.apart else "",
            ]
        )
    return [head, *body]


def number(value: float, form: str = "{:.2g}") -> str:
    """A number, or a dash for NaN."""
    return "–" if math.isnan(value) else form.format(value)


def ranking(found: Sequence[Comparison]) -> Ranks | None:
    """Ranks of the methods that all comparisons have, over comparisons of different networks or data sets.

    A block is one network on one data set: its mean accuracy over the sparsities that all of its methods have.
    The sparsities of one network are not independent and make one block.
    """
    if not (blocks := blocks_of(found)):
        return None
    shared = [m for m in blocks[0].methods if all(m in block.methods for block in blocks)]
    rows = []
    for block in blocks:
        cells = {s: [block.cells.get((m, s)) for m in shared] for s in block.sparsities}
        common = [s for s, there in cells.items() if all(cell and cell.accuracies for cell in there)]
        if common:
            rows.append([sum(block.cells[m, s].percent.mean for s in common) / len(common) for m in shared])
    return ranks(shared, rows) if len(shared) > 1 and rows else None


def blocks_of(found: Sequence[Comparison]) -> list[Comparison]:
    """One comparison for each network and data set; of several the plainest, with most cells, but no false labels."""
    rivals: dict[tuple[str, str], list[Comparison]] = {}
    for one in found:
        if one.methods and one.trained and not one.label_noise:
            rivals.setdefault((one.data, one.model), []).append(one)
    return [min(group, key=lambda one: (one.special, one.title, one.protocol)) for group in rivals.values()]


def friedman(found: Ranks) -> str:
    """What Friedman's test says of some ranks."""
    if math.isnan(found.p):
        return f"With {len(found.methods)} criteria and {plural(found.blocks, 'block')} there is no test."
    verdict = "differ" if found.p <= LEVEL else "are not distinguishable"
    text = f"Friedman's test: the criteria {verdict} in rank (p = {found.p:.2g})"
    few = "; with so few blocks it seldom rejects" if found.blocks < 5 else ""
    if found.critical >= len(found.methods) - 1:
        return f"{text}{few}. No two of them could be told apart: with so few blocks, no ranks are far enough apart."
    return f"{text}{few}. Criteria nearer than the critical difference ({found.critical:.2f}) are not told apart."
