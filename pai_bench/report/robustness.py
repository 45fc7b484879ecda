"""The part of a section about robustness: accuracy under attack, smallest changes that fool, and what attacks took."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes, pairs, tables
from pai_bench.report.figures.robustness import robust_accuracy, security_curves
from pai_bench.report.statistics import estimate
from pai_bench.report.summary import Cell, Comparison, by_cell, cells, plural

CAPTION = (
    "Accuracies in per cent on the first test examples, means ± standard deviations over seeds: clean, and robust, "
    "that is right and not fooled by any of the attacks that change each pixel by at most eps (Linf) or the image by a "
    "Euclidean distance of at most eps (L2), inputs in [0, 1]. ≤ stands before an upper bound: there are warnings that "
    "gradients mislead the attacks on some of these networks. Minimal norms are medians over examples, ∞ where no "
    "adversary was found for half of them. Networks at chance are left out of the tests of pairs."
)


@dataclass(frozen=True)
class Verdict:
    """A metric of robust accuracy, as it is in the columns of results."""

    name: str
    norm: str
    eps: float
    options: str
    """Effort and number of examples, as far as they are not the default."""

    def __str__(self) -> str:
        """Norm and size of the ball, in words."""
        norm = {"linf": "Linf", "l2": "L2"}[self.norm]
        return f"{norm} {self.eps:g}" + (f" ({self.options})" if self.options else "")


def verdicts(rows: pd.DataFrame) -> list[Verdict]:
    """The metrics of robust accuracy that the rows have, by norm and eps."""
    found = []
    for name in rows.columns:
        match = re.fullmatch(r"verdict-(linf|l2):eps=([^:]+?)(?::(.*))?", str(name))
        if match and f"{name}.clean" in rows.columns and rows[name].notna().any():
            options = ", ".join((match[3] or "").replace("=", " ").split(":")).strip()
            found.append(Verdict(str(name), match[1], float(match[2]), options))
    return sorted(found, key=lambda one: (one.options, one.norm != "linf", one.eps))


def minima(rows: pd.DataFrame) -> list[str]:
    """The metrics of smallest changes that the rows have."""
    names = [str(name) for name in rows.columns if re.match("minimal-(linf|l2)", str(name))]
    return [name for name in names if f"{name}.found" in rows.columns and rows[f"{name}.found"].notna().any()]


def attacked(comparison: Comparison, name: str, value: str = "") -> Comparison:
    """The comparison with a value of a metric in place of the test accuracy, of the trials that have it."""
    rows = comparison.rows[comparison.rows[name].notna()]
    rows = rows.assign(at_chance=outcomes.collapsed(rows))
    rows = rows.assign(test_accuracy=rows[name + value].astype(float), test_examples=rows[f"{name}.examples"])
    rows = rows.assign(chance_accuracy=-1.0)  # below chance under attack, a network need not be at chance
    dense, pruned = (rows[(rows.criterion == DENSE) == flag] for flag in (True, False))
    reference = dataclasses.replace(cells(dense).get((DENSE, 0.0), Cell(())), effective_sparsity=math.nan)
    return dataclasses.replace(comparison, rows=rows, cells=cells(pruned), dense=reference)


def above_chance(comparison: Comparison) -> Comparison:
    """An `attacked` comparison without the networks that are at chance or disconnected without any attack.

    One that names all examples as one class cannot be fooled, and would win against all others.
    """
    rows = comparison.rows[~comparison.rows.at_chance]
    return dataclasses.replace(comparison, rows=rows, cells=cells(rows[rows.criterion != DENSE]))


def parts(comparison: Comparison, folder: Path, by_sparsity: Path, by_eps: Path) -> list[str]:
    """Paragraphs, tables and figures, drawn below `folder`; none if no network was attacked."""
    found, smallest = verdicts(comparison.rows), minima(comparison.rows)
    if not found and not smallest:
        return []
    text = ["### Robustness", CAPTION, tables.markdown(table(comparison, found, smallest))]
    robust = {verdict: attacked(comparison, verdict.name) for verdict in found}
    if found and comparison.cells:
        robust_accuracy({str(verdict): one for verdict, one in robust.items()}, comparison, folder / by_sparsity)
        text.append(tables.image(f"Robust accuracy against sparsity, {comparison.title}", by_sparsity))
    if curves := [
        same for same in tables.grouped(found, lambda one: (one.options, one.norm)).values() if len(same) > 1
    ]:
        points = {str(same[0]): [(one.eps, robust[one]) for one in same] for same in curves}
        clean = {str(same[0]): attacked(comparison, same[0].name, ".clean") for same in curves}
        security_curves(points, clean, folder / by_eps)
        text.append(tables.image(f"Robust accuracy against eps, {comparison.title}", by_eps))
    for verdict, one in robust.items():
        # where clean accuracies are chance, nothing is compared
        if tested := [] if comparison.random_labels else pairs.pairs(above_chance(one)):
            shown = f"{pairs.power(tested) or ''}\n\n{tables.markdown(pairs.table(tested))}"
            text.append(tables.details(f"All pairs of criteria, robust accuracy, {verdict}", shown))
    return [*text, "#### Attacks", ATTACKS, tables.markdown(attacks(comparison, found, smallest))]


ATTACKS = (
    "What was computed of each network, and what it took: medians of seconds over networks, on the machine of the "
    "evaluation. Warnings are those of docs/robustness.md, with the number of networks; networks that give all "
    "examples one class are called constant, and have no warnings."
)


def table(comparison: Comparison, found: Sequence[Verdict], smallest: Sequence[str]) -> tables.Table:
    """A row for each method at each sparsity, the dense network first."""
    rows = comparison.rows[comparison.rows.status == "done"].reset_index(drop=True)
    body = []
    for method, sparsity, places in by_cell(rows):
        own = rows.iloc[places]
        line = {"criterion": method, "sparsity": f"{sparsity:.10g}"}
        if found:
            line["clean"] = spread(own[f"{found[0].name}.clean"])
        for verdict in found:
            bound = "≤ " if (own[f"{verdict.name}.warnings"] > 0).any() else ""
            constant = " (constant)" if (own[f"{verdict.name}.constant"] > 0).any() else ""
            line[str(verdict)] = bound + spread(own[verdict.name]) + constant
        for name in smallest:
            line[name] = median(own, name)
        body.append(((method != DENSE, sparsity), line))
    return tables.from_rows([line for _, line in sorted(body, key=lambda entry: entry[0])])


def spread(values: "pd.Series[float]") -> str:
    """Mean and standard deviation in per cent; a dash without values."""
    known = 100 * values.dropna().to_numpy(dtype=float)
    if not len(known):
        return "–"
    result = estimate(known)
    return f"{result.mean:.2f}" + (f" ± {result.deviation:.2f}" if len(known) > 1 else "")


def median(rows: pd.DataFrame, name: str) -> str:
    """The mean over seeds of the medians; infinite if one of them is, which is stored as a missing value."""
    taken = rows[rows[f"{name}.found"].notna() | rows[name].notna()]
    if not len(taken):
        return "–"
    return "∞" if taken[name].isna().any() else f"{taken[name].mean():.3g}"


def attacks(comparison: Comparison, found: Sequence[Verdict], smallest: Sequence[str]) -> tables.Table:
    """A row for each metric: how many networks and examples, seconds, and warnings."""
    rows, body = comparison.rows, []
    for name in (*(verdict.name for verdict in found), *smallest):
        own = rows[rows[f"{name}.examples"].notna()]
        checks = own[f"{name}.warning_seconds"].median() if f"{name}.warning_seconds" in own else None
        body.append(
            {
                "metric": name,
                "networks": str(len(own)),
                "effort": match[1] if (match := re.search(":effort=([^:]+)", name)) else "quick",
                "examples": f"{int(own[f'{name}.examples'].min()):,}",
                "seconds per network": tables.duration(own[f"{name}.seconds"].median()),
                "for warnings": tables.duration(checks),
                "warnings": warnings(own, name),
            }
        )
    return tables.from_rows(body)


def warnings(rows: pd.DataFrame, name: str) -> str:
    """The warnings of a metric, each with the number of networks, and how many networks are constant."""
    notes = rows[f"{name}.notes"].dropna().tolist() if f"{name}.notes" in rows else []
    counts = Counter(note for text in notes for note in str(text).split("; "))
    constant = int((rows[f"{name}.constant"] > 0).sum()) if f"{name}.constant" in rows else 0
    listed = [f"{note} ({count})" for note, count in counts.most_common()]
    return ", ".join([*listed, *([plural(constant, "constant network")] if constant else [])])
