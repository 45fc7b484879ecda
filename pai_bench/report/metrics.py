"""What is reported of the trials of one method at one sparsity: one table of metrics for every format."""

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes, tables
from pai_bench.report.statistics import PERCENT, POINTS, Bounds, estimate
from pai_bench.report.summary import SHARED, Comparison, by_cell, plural, share

Of = Callable[[pd.DataFrame, pd.DataFrame], "pd.Series[float]"]
"""Rows of one method and sparsity, and those of the dense reference -> a value for each row."""


@dataclass(frozen=True)
class Metric:
    """A number of each trial. `form` writes it for people, in `unit`; tables for programs hold the number itself."""

    name: str
    label: str
    unit: str
    better: Literal["higher", "lower", ""]
    of: Of
    form: Callable[[float], str]
    spread: bool = False
    """Whether standard deviation and interval over seeds are written too."""
    bounds: Bounds = (0.0, math.inf)
    """Between what it lies, and its intervals too."""

    @property
    def heading(self) -> str:
        """The label, with the unit where the numbers do not say it, and an arrow to what is better."""
        unit = f", {self.unit}" if self.unit in ("%", "points") else ""
        return self.label + unit + {"higher": " ↑", "lower": " ↓", "": ""}[self.better]


def column(name: str, factor: float = 1.0) -> Of:
    """A column of the results, in another unit."""
    return lambda rows, _dense: factor * pd.to_numeric(rows[name], errors="coerce")


def drop(rows: pd.DataFrame, dense: pd.DataFrame) -> "pd.Series[float]":
    """Accuracy of the dense network of the same seed minus that of each row, in points."""
    reference = dense[dense.status != "failed"].groupby("seed").test_accuracy.mean()
    return 100 * (rows.seed.map(reference) - pd.to_numeric(rows.test_accuracy))


def ratio(part: str, whole: str) -> Of:
    """One column by another, in per cent."""
    return lambda rows, _dense: 100 * pd.to_numeric(rows[part]) / pd.to_numeric(rows[whole])


def dead_layers(rows: pd.DataFrame, _dense: pd.DataFrame) -> "pd.Series[float]":
    """Layers that keep nothing."""
    return rows.dead_layers.map(len, na_action="ignore")


def four_digits(value: float) -> str:
    """A number with four digits that count, noughts too."""
    return f"{value:#.4g}".rstrip(".")


SHARE: Bounds = (0.0, 1.0)
LAST = "test accuracy, last epoch"
TRAIN_LOSS = Metric("train_loss", "training loss, last epoch", "", "lower", column("train_loss"), four_digits)
METRICS = (
    Metric("accuracy", LAST, "%", "higher", column("test_accuracy", 100), "{:.2f}".format, True, PERCENT),
    Metric("drop", "below dense", "points", "lower", drop, "{:.2f}".format, True, POINTS),
    TRAIN_LOSS,
    Metric("direct_sparsity", "direct sparsity", "", "", column("achieved_sparsity"), share, bounds=SHARE),
    Metric("effective_sparsity", "effective sparsity", "", "", column("effective_sparsity"), share, bounds=SHARE),
    Metric(
        "dead_layers",
        "dead layers",
        "",
        "lower",
        dead_layers,
        "{:.3g}".format,
    ),
    Metric("parameters_kept", "weights kept", "", "", column("parameters_kept"), "{:,.0f}".format),
    Metric("flops_kept", "FLOPs kept", "%", "lower", ratio("flops_kept", "flops"), "{:.3g}".format, bounds=PERCENT),
    Metric("score_seconds", "scoring", "s", "lower", column("score_seconds"), tables.duration),
    Metric("score_peak_bytes", "scoring memory", "bytes", "lower", column("score_peak_bytes"), tables.size),
    Metric("train_seconds", "training", "s", "lower", column("train_seconds"), tables.duration),
)
BEST = Metric(
    "best_accuracy", "best on test", "%", "higher", column("best_accuracy", 100), "{:.2f}".format, True, PERCENT
)
"""Looks at the test set for the epoch to report: only beside published numbers that did so."""


@dataclass(frozen=True)
class Measured:
    """One method at one sparsity: how many trials have failed, and the metrics of the others, by seed."""

    method: str
    sparsity: float
    seeds: int
    failed: int
    untrained: int
    """Connected networks whose last training loss is that of chance."""
    values: dict[Metric, NDArray[np.floating]]
    """Without what was not measured."""


def measured(comparison: Comparison, metrics: Sequence[Metric]) -> Iterator[Measured]:
    """Every method at every sparsity that was run, the dense reference at 0."""
    rows = comparison.rows
    dense = rows[rows.criterion == DENSE]
    values = {metric: metric.of(rows, dense).to_numpy(dtype=float) for metric in metrics}
    failed = (rows.status == "failed").to_numpy()
    untrained = outcomes.untrained(rows)
    for method, sparsity, places in by_cell(rows):
        done = places[~failed[places]]
        found = {metric: each[done][~np.isnan(each[done])] for metric, each in values.items()}
        yield Measured(method, sparsity, len(done), len(places) - len(done), int(untrained[done].sum()), found)


def fitted(comparison: Comparison) -> list[str]:
    """The training loss of every criterion, a sentence for each sparsity: what there is to say of random labels."""
    known = sorted(measured(comparison, [TRAIN_LOSS]), key=lambda one: one.method != DENSE)
    lines = []
    for sparsity in comparison.sparsities:
        said = [loss_of(one) for one in known if one.method == DENSE or one.sparsity == sparsity]
        lines.append(f"At sparsity {sparsity:.10g}, the mean training loss of the last epoch is {', '.join(said)}.")
    return lines


def loss_of(one: Measured) -> str:
    """A method with its mean training loss, and of how many seeds that is."""
    losses, seeds = one.values[TRAIN_LOSS], plural(one.seeds + one.failed, "seed")
    some = seeds if len(losses) == one.seeds + one.failed else f"{len(losses)} of {seeds}"
    failed = f", {one.failed} failed" if one.failed else ""
    return f"{one.method} {TRAIN_LOSS.form(float(losses.mean())) if len(losses) else 'unknown'} ({some}{failed})"


def table(comparison: Comparison, metrics: Sequence[Metric] = METRICS) -> tables.Table:
    """A row for each method and sparsity, for people: means over seeds; of accuracies, deviation and interval too."""
    head = ["criterion", "sparsity", "seeds", "failed", "loss at chance", *(metric.heading for metric in metrics)]
    body = []
    for one in measured(comparison, metrics):
        row = [one.method, f"{one.sparsity:.10g}", str(one.seeds), str(one.failed or ""), str(one.untrained or "")]
        body.append(row + [written(metric, values, one.seeds) for metric, values in one.values.items()])
    kept = [i for i in range(len(head)) if i < 3 or any(row[i] for row in body)]
    return [[row[i] for i in kept] for row in (head, *body)]


def written(metric: Metric, values: NDArray[np.floating], seeds: int) -> str:
    """The mean of a metric, as a person reads it, and of how many seeds if not of all; nothing without any."""
    if not len(values):
        return ""
    part = f" ({len(values)} of {seeds} seeds)" if len(values) < seeds else ""
    if not metric.spread:
        return metric.form(float(values.mean())) + part
    found = estimate(values, metric.bounds)
    text = metric.form(found.mean)
    if not math.isnan(found.deviation):
        text += f" ± {metric.form(found.deviation)} ({metric.form(found.low)} to {metric.form(found.high)})"
    return text + part


def frame(comparisons: Sequence[Comparison], metrics: Sequence[Metric] = (*METRICS, BEST)) -> pd.DataFrame:
    """A row for each method and sparsity, for programs: mean, sample deviation and interval of every metric."""
    rows = []
    for comparison in comparisons:
        for one in measured(comparison, metrics):
            row: dict[str, object] = {name: getattr(comparison, name) for name in SHARED}
            row |= {"criterion": one.method, "sparsity": one.sparsity, "seeds": one.seeds, "failed": one.failed}
            row["untrained"] = one.untrained
            for metric, values in one.values.items():
                found = estimate(values, metric.bounds)
                row |= {metric.name: found.mean, f"{metric.name}_sd": found.deviation}
                row |= {f"{metric.name}_low": found.low, f"{metric.name}_high": found.high}
            rows.append(row)
    return pd.DataFrame(rows)


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """`frame` as comma-separated values; a text that spreadsheets would take for a formula follows a ``'``."""
    return frame(comparisons).map(no_formula).to_csv(index=False, lineterminator="\n")


def no_formula(value: object) -> object:
    """A value of a cell, texts that begin like a formula behind a ``'``."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def as_latex(comparisons: Sequence[Comparison]) -> str:
    """A LaTeX tabular for each comparison, with booktabs' rules."""
    parts = []
    for comparison in comparisons:
        head, *body = ([latex(cell) for cell in row] for row in table(comparison))
        comment = " ".join(f"{comparison.title}; {comparison.protocol}".split())  # a line break would end it
        lines = [f"% {comment}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"]
        lines += [r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
        lines += [" & ".join(row) + r" \\" for row in body] + [r"\bottomrule", r"\end{tabular}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


LATEX = {c: rf"\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}


def latex(text: str) -> str:
    r"""`text` in one line as LaTeX shows it, and after ``\\`` too, which takes a bracket or an asterisk for its own."""
    line = "".join(LATEX.get(character, character) for character in " ".join(text.split()))
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def as_html(comparisons: Sequence[Comparison]) -> str:
    """A page with an HTML table for each comparison."""
    parts = ['<!doctype html>\n<meta charset="utf-8">\n<title>pai-bench</title>']
    for comparison in comparisons:
        head, *body = ([html.escape(cell) for cell in row] for row in table(comparison))
        caption = html.escape(f"{comparison.title}. {comparison.protocol}")
        lines = ["<table>", f"<caption>{caption}</caption>"]
        lines += ["<thead><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr></thead>", "<tbody>"]
        lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
        parts.append("\n".join([*lines, "</tbody>", "</table>"]))
    return "\n\n".join(parts) + "\n"


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {"csv": as_csv, "latex": as_latex, "html": as_html}
