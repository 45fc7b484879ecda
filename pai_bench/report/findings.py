"""The results of the paired tests of a comparison, in sentences."""

from collections.abc import Mapping, Sequence

import pandas as pd

from pai_bench.experiment.trial import DENSE
from pai_bench.report.pairs import NO_SPREAD, TOO_FEW, UNTRAINED, Pair, accuracies
from pai_bench.report.statistics import DIGITS, LEVEL
from pai_bench.report.summary import Comparison, plural


def sentences(comparison: Comparison, pairs: Sequence[Pair]) -> list[str]:
    """One sentence for each sparsity: the criterion with the highest mean, what it beats, and what it does not."""
    table, lines = accuracies(comparison), []
    for sparsity in comparison.sparsities:
        columns = {method: table[method, sparsity] for method in comparison.methods if (method, sparsity) in table}
        if not columns:
            continue
        scores = pd.DataFrame(columns)
        common = scores.dropna() if len(scores.dropna()) else scores  # only means over the same seeds are comparable
        means = common.mean().round(DIGITS)
        leaders = [str(method) for method in means.index[means == means.max()]]
        leads = " has the highest" if len(leaders) == 1 else " have the same, highest"
        start = f"At sparsity {sparsity:.10g}, {listing(list(map(named, leaders)))}{leads} mean accuracy, "
        start += f"{means.max():.2f} %"
        if len(common) < scores.count().max():  # cells in the table are over more seeds
            start += f" over the {plural(len(common), 'seed')} that all have"
        texts = {}
        for leader in leaders:
            own = [pair for pair in pairs if pair.sparsity == sparsity and leader in (pair.better, pair.worse)]
            others = {pair.worse if pair.better == leader else pair.better: pair for pair in own}
            others = {name: pair for name, pair in others.items() if name not in leaders}
            untrained = comparison.not_compared(leader, sparsity)
            texts[leader] = f"it did not train ({AT_CHANCE})" if untrained else compared(leader, others)
        if len(leaders) > 1:
            lines.append(". ".join([start, *(f"{named(name)}: {text}" for name, text in texts.items() if text)]) + ".")
        elif texts[leaders[0]]:
            lines.append(f"{start}: {texts[leaders[0]]}.")
        else:
            lines.append(f"{start}; no other criterion has results there{' with common seeds' * (len(columns) > 1)}.")
    return lines


AT_CHANCE = "the training loss is still that of chance"


def untrained(comparison: Comparison) -> list[str]:
    """A sentence about dense networks that did not train, or about all that memorised nothing of random labels."""
    if not comparison.label_noise:
        return [f"The dense networks did not train: {AT_CHANCE}."] if comparison.dense.at_chance else []
    cells = {(DENSE, 0.0): comparison.dense, **comparison.cells}
    names = [f"{named(name)} at {s:.10g}" if s else name for (name, s), cell in cells.items() if cell.at_chance]
    return [f"Nothing of the random labels was memorised by {listing(names)}: {AT_CHANCE}."] if names else []


def compared(best: str, others: Mapping[str, Pair]) -> str:
    """The verdicts on one criterion beside others, those of one verdict together; empty without any."""
    if not others:
        return ""
    names: dict[str, list[str]] = {}
    for name, pair in others.items():
        verdict, text = verdict_on(name, pair, 1 if pair.better == best else -1)
        names.setdefault(verdict, []).append(text)
    texts = [verdict.format(listing(names[verdict])) for verdict in VERDICTS if verdict in names]
    seeds = {pair.difference.seeds for pair in others.values()}
    counts = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else plural(max(seeds), "seed")
    return "; ".join([*texts, counts])


BEATS, BEATEN = "it beats {}", "over the seeds of both it is beaten by {}"
EQUAL = "it is equal to {}"
UNCORRECTED, ALIKE = "before correction alone it differs from {}", "it is not distinguishable from {}"
FEW, UNTESTED = "too few seeds for a verdict on {}", "it could not be tested against {}"
NOT_COMPARED = f"it is not compared with {{}}, which did not train ({AT_CHANCE})"
TOGETHER = "it is not compared with {}: over the seeds of both, half of the networks or more did not train"
VERDICTS = (BEATS, BEATEN, EQUAL, UNCORRECTED, ALIKE, FEW, UNTESTED, NOT_COMPARED, TOGETHER)
"""All verdicts on a criterion beside others, in the order in which they are written."""


def verdict_on(name: str, pair: Pair, sign: int) -> tuple[str, str]:
    """The verdict on a pair, and its other criterion `name` with the difference."""
    points = f"{sign * pair.difference.estimate.mean:.2f}"
    inside = f"{named(name)} ({pair.points(sign, inside=True)})"
    if pair.too_few:
        return FEW, inside
    if pair.untested == UNTRAINED:
        return NOT_COMPARED if name in pair.untrained else TOGETHER, named(name)
    if pair.untested == TOO_FEW:
        return FEW, f"{named(name)} ({points})"
    if pair.untested:
        return UNTESTED, f"{named(name)} ({points}, {NO_SPREAD})"
    if pair.equal and not pair.significant:
        return EQUAL, f"{named(name)} ({pair.points(sign, inside=True)}; within {pair.margin:g})"
    if not pair.significant:
        return UNCORRECTED if pair.p <= LEVEL else ALIKE, inside
    return BEATS if sign > 0 else BEATEN, f"{named(name)} by {pair.points()}"


def named(method: str) -> str:
    """A method in a list of others: in quotes if it has commas of its own."""
    return f"“{method}”" if ", " in method else method


def listing(names: Sequence[str]) -> str:
    """Names joined by commas and "and"."""
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else "".join(names)
