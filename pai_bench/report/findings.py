"""What the pairs of a comparison say, in sentences."""

from collections.abc import Mapping, Sequence

import pandas as pd

from pai_bench.experiment.trial import DENSE
from pai_bench.report.pairs import SAME, TOO_FEW, UNTRAINED, Pair, accuracies
from pai_bench.report.statistics import DIGITS, LEVEL
from pai_bench.report.summary import Comparison, plural


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
        said = {}
        for leader in leaders:
            others = {
                pair.worse if pair.better == leader else pair.better: pair
                for pair in found
                if pair.sparsity == sparsity and leader in (pair.better, pair.worse)
            }
            against = {name: pair for name, pair in others.items() if name not in leaders}
            idle = comparison.not_compared(leader, sparsity)
            said[leader] = f"it did not train ({STILL})" if idle else compared(leader, against)
        if len(leaders) > 1:
            each = [f"{named(one)}: {text}" for one, text in said.items() if text]
            lines.append(". ".join([start, *each]) + ".")
        elif not said[leaders[0]]:
            lines.append(f"{start}; nothing {'with common seeds ' * (len(columns) > 1)}stands beside it.")
        else:
            lines.append(f"{start}: {said[leaders[0]]}.")
    return lines


STILL = "the training loss is still that of chance"


def untrained(comparison: Comparison) -> list[str]:
    """A sentence about dense networks that did not train; about all that have memorised nothing of random labels."""
    if not comparison.label_noise:
        return [f"The dense networks did not train: {STILL}."] if comparison.dense.at_chance else []
    cells = {(DENSE, 0.0): comparison.dense, **comparison.cells}
    names = [f"{named(name)} at {s:.10g}" if s else name for (name, s), cell in cells.items() if cell.at_chance]
    return [f"Nothing of the random labels was memorised by {listing(names)}: {STILL}."] if names else []


def compared(best: str, against: Mapping[str, Pair]) -> str:
    """What the pairs of one criterion say of it; nothing without any."""
    if not against:
        return ""
    seeds = {pair.difference.seeds for pair in against.values()}
    counts = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else plural(max(seeds), "seed")
    return "; ".join([*verdicts(best, against), counts])


def verdicts(best: str, against: Mapping[str, Pair]) -> list[str]:
    """What the pairs of one criterion with others say, others of one verdict together."""
    said: dict[str, list[str]] = {}
    for name, pair in against.items():
        verdict, text = judged(name, pair, 1 if pair.better == best else -1)
        said.setdefault(verdict, []).append(text)
    return [verdict.format(listing(said[verdict])) for verdict in VERDICTS if verdict in said]


BEATS, BEATEN = "it beats {}", "over the seeds of both it is beaten by {}"
UNCORRECTED, ALIKE = "before correction alone it differs from {}", "it is not distinguishable from {}"
FEW, UNTESTED = "too few seeds for a verdict on {}", "it could not be tested against {}"
NOT_COMPARED = f"it is not compared with {{}}, which did not train ({STILL})"
TOGETHER = "it is not compared with {}: over the seeds of both, half of the networks or more did not train"
VERDICTS = (BEATS, BEATEN, UNCORRECTED, ALIKE, FEW, UNTESTED, NOT_COMPARED, TOGETHER)
"""What is said of a criterion beside others, in this order."""


def judged(name: str, pair: Pair, sign: int) -> tuple[str, str]:
    """The verdict on a pair, and its other criterion, `name`, with what there is to say of it."""
    points = f"{sign * pair.difference.estimate.mean:.2f}"
    said = {
        UNTRAINED: (NOT_COMPARED if name in pair.untrained else TOGETHER, named(name)),
        TOO_FEW: (FEW, f"{named(name)} ({points})"),
        SAME: (UNTESTED, f"{named(name)} ({points}, {SAME})"),
    }
    if pair.too_few:
        return FEW, f"{named(name)} ({pair.points(sign, inside=True)})"
    if pair.untested:
        return said[pair.untested]
    if not pair.apart:
        return UNCORRECTED if pair.p <= LEVEL else ALIKE, f"{named(name)} ({pair.points(sign, inside=True)})"
    return BEATS if sign > 0 else BEATEN, f"{named(name)} by {pair.points()}"


def named(method: str) -> str:
    """A method as it stands among others in a sentence: in quotes where its own commas would end it."""
    return f"“{method}”" if ", " in method else method


def listing(names: Sequence[str]) -> str:
    """Names as they stand in a sentence."""
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else "".join(names)
