"""One table of metrics of each method and sparsity, for all formats."""

import dataclasses
import html
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pai_bench.experiment.settings import TrainingSettings
from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes, tables
from pai_bench.report.statistics import ANY, Bounds, estimate
from pai_bench.report.summary import SHARED, Cell, Comparison, by_cell, plural, share

Values = Callable[[pd.DataFrame, pd.DataFrame], "pd.Series[float]"]
"""Rows of trials, and those of the dense reference -> a value for each row."""


@dataclass(frozen=True)
class Metric:
    """A number of each trial, in the unit of `read_results`. `form` writes it for people, in that of the `label`."""

    name: str
    """That of its column in `read_results`, where it is one."""
    label: str
    """With the unit where `form` does not write it."""
    better: Literal["higher", "lower", ""]
    values: Values
    form: Callable[[float], str]
    spread: bool = False
    """Whether standard deviation and interval over seeds are written too."""
    bounds: Bounds = (0.0, math.inf)

    @property
    def heading(self) -> str:
        """The label, with an arrow to what is better."""
        return self.label + {"higher": " ↑", "lower": " ↓", "": ""}[self.better]


def column(name: str) -> Values:
    """A column of the results."""
    return lambda rows, _dense: pd.to_numeric(rows[name], errors="coerce")


def below_dense(rows: pd.DataFrame, dense: pd.DataFrame) -> "pd.Series[float]":
    """Accuracy of the dense network of the same seed minus that of each row, in [-1, 1]."""
    reference = dense[dense.status != "failed"].groupby("seed").test_accuracy.mean()
    return rows.seed.map(reference) - pd.to_numeric(rows.test_accuracy)


def ratio(part: str, whole: str) -> Values:
    """One column divided by another."""
    return lambda rows, _dense: pd.to_numeric(rows[part]) / pd.to_numeric(rows[whole])


def dead_layers(rows: pd.DataFrame, _dense: pd.DataFrame) -> "pd.Series[float]":
    """Number of layers that keep nothing."""
    return rows.dead_layers.map(len, na_action="ignore")


def four_digits(value: float) -> str:
    """A number with four significant digits, zeros too."""
    return f"{value:#.4g}".rstrip(".")


def percent(value: float) -> str:
    """A share, or a difference of shares, in per cent with two decimals."""
    return f"{100 * value:.2f}"


def three_digits_percent(value: float) -> str:
    """A share in per cent with three digits."""
    return f"{100 * value:.3g}"


SHARE: Bounds = (0.0, 1.0)
ACCURACY = "test accuracy, last epoch, %"
TRAIN_LOSS = Metric("train_loss", "training loss, last epoch", "lower", column("train_loss"), four_digits)
METRICS = (
    Metric("test_accuracy", ACCURACY, "higher", column("test_accuracy"), percent, True, SHARE),
    Metric("below_dense", "below dense, points", "lower", below_dense, percent, True, (-1.0, 1.0)),
    TRAIN_LOSS,
    Metric("achieved_sparsity", "direct sparsity", "", column("achieved_sparsity"), share, bounds=SHARE),
    Metric("effective_sparsity", "effective sparsity", "", column("effective_sparsity"), share, bounds=SHARE),
    Metric("dead_layers", "dead layers", "lower", dead_layers, "{:.3g}".format),
    Metric("parameters_kept", "weights kept", "", column("parameters_kept"), "{:,.0f}".format),
    Metric("flops_share", "FLOPs kept, %", "lower", ratio("flops_kept", "flops"), three_digits_percent, bounds=SHARE),
    Metric("score_seconds", "scoring", "lower", column("score_seconds"), tables.duration),
    Metric("score_peak_bytes", "scoring memory", "lower", column("score_peak_bytes"), tables.size),
    Metric("train_seconds", "training", "lower", lambda rows, _dense: outcomes.training_seconds(rows), tables.duration),
)
BEST = Metric("best_accuracy", "best on test, %", "higher", column("best_accuracy"), percent, bounds=SHARE)
"""Chooses the epoch by the test set: only for comparison with published numbers that do so."""


def evaluated(rows: pd.DataFrame) -> tuple[Metric, ...]:
    """The metrics that were taken of trained networks: columns of numbers behind those of records."""
    behind = rows.columns[list(rows.columns).index("identity") + 1 :]
    taken = {"method", *(one.name for one in (*METRICS, BEST))}
    names = [str(name) for name in behind if name not in taken and not str(name).endswith(".notes")]
    values = {name: norm(name) if found_of(name) in rows else column(name) for name in names}
    given = [name for name in names if values[name](rows, rows).notna().any()]
    return tuple(Metric(name, name, "", values[name], "{:.4g}".format, True, ANY) for name in given)


def found_of(name: str) -> str:
    """The column that says for which share of examples an adversary was found, of a median or mean of norms."""
    return f"{name.removesuffix('.mean')}.found" if name.startswith("minimal-") else ""


def norm(name: str) -> Values:
    """A median or mean of norms, infinite where it is missing: as many adversaries were not found."""
    found = found_of(name)
    return lambda rows, dense: column(name)(rows, dense).mask(rows[name].isna() & rows[found].notna(), math.inf)


@dataclass(frozen=True)
class Measured:
    """One method at one sparsity, and the metrics of its trials that did not fail, by seed, without missing values."""

    method: str
    sparsity: float
    cell: Cell
    values: dict[Metric, NDArray[np.floating]]

    @property
    def seeds(self) -> int:
        """Number of trials that did not fail."""
        return len(self.cell.accuracies)


def measured(comparison: Comparison, metrics: Sequence[Metric]) -> Iterator[Measured]:
    """Every method at every sparsity that was run, the dense reference at 0."""
    rows = comparison.rows
    dense, failed = rows[rows.criterion == DENSE], (rows.status == "failed").to_numpy()
    columns = {metric: metric.values(rows, dense).to_numpy(dtype=float) for metric in metrics}
    for method, sparsity, places in by_cell(rows):
        cell = comparison.cell(method, sparsity)
        done = places[~failed[places]]
        known = {metric: column[done][~np.isnan(column[done])] for metric, column in columns.items()}
        yield Measured(method, sparsity, cell, known)


def fitted(comparison: Comparison) -> list[str]:
    """The training loss of every criterion, a sentence for each sparsity: the findings where labels are random."""
    by_method = sorted(measured(comparison, [TRAIN_LOSS]), key=lambda one: one.method != DENSE)
    lines = []
    for sparsity in comparison.sparsities:
        texts = [loss_of(one) for one in by_method if one.method == DENSE or one.sparsity == sparsity]
        lines.append(f"At sparsity {sparsity:.10g}, the mean training loss of the last epoch is {', '.join(texts)}.")
    return lines


def loss_of(one: Measured) -> str:
    """A method with its mean training loss, and the number of seeds."""
    losses, seeds = one.values[TRAIN_LOSS], plural(one.cell.seeds, "seed")
    part = seeds if len(losses) == one.cell.seeds else f"{len(losses)} of {seeds}"
    failed = f", {one.cell.failed} failed" if one.cell.failed else ""
    return f"{one.method} {TRAIN_LOSS.form(float(losses.mean())) if len(losses) else 'unknown'} ({part}{failed})"


def table(comparison: Comparison) -> tables.Table:
    """A row for each method and sparsity, for people: means over seeds; of accuracies, deviation and interval too.

    Attacks have a table of their own.
    """
    others = [one for one in evaluated(comparison.rows) if not one.name.startswith(("verdict-", "minimal-"))]
    metrics = (*METRICS, *others)
    head = ["criterion", "sparsity", "seeds", "failed", "loss at chance", *(metric.heading for metric in metrics)]
    body = []
    for one in measured(comparison, metrics):
        row = [one.method, f"{one.sparsity:.10g}", str(one.seeds)]
        row += [str(one.cell.failed or ""), str(one.cell.untrained or "")]
        body.append(row + [written(metric, values, one.seeds) for metric, values in one.values.items()])
    kept = [i for i in range(len(head)) if i < 3 or any(row[i] for row in body)]
    return [[row[i] for i in kept] for row in (head, *body)]


def written(metric: Metric, values: NDArray[np.floating], seeds: int) -> str:
    """The mean of a metric for people, with the number of seeds if not all have it; empty without any."""
    if not len(values):
        return ""
    text = metric.form(float(values.mean()))
    if metric.spread and len(values) > 1:
        result = estimate(values, metric.bounds)
        text += f" ± {metric.form(result.deviation)} ({metric.form(result.low)} to {metric.form(result.high)})"
    return text + (f" ({len(values)} of {seeds} seeds)" if len(values) < seeds else "")


def frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row for each method and sparsity, for programs: mean, sample deviation and interval of every metric.

    Units are those of `read_results`; `meanings` says what each column is.
    """
    rows = []
    for comparison in comparisons:
        for one in measured(comparison, (*METRICS, BEST, *evaluated(comparison.rows))):
            row: dict[str, object] = {name: getattr(comparison, name) for name in SHARED}
            row |= {"criterion": one.method, "sparsity": one.sparsity, "seeds": one.seeds}
            row |= {"failed": one.cell.failed, "untrained": one.cell.untrained}
            for metric, values in one.values.items():
                result = estimate(values, metric.bounds)
                row |= {metric.name: result.mean, f"{metric.name}_sd": result.deviation}
                row |= {f"{metric.name}_low": result.low, f"{metric.name}_high": result.high}
            rows.append(row)
    return pd.DataFrame(rows)


MEANINGS = {
    "data": "data set",
    "model": "network",
    "protocol": "name of the protocol, or its settings",
    "criterion": "criterion with its options and variant; dense is the unpruned reference",
    "sparsity": "share of the prunable weights, or of what sparsity_of names, that was to be removed",
    "seeds": "number of trials that did not fail, over which the means are",
    "failed": "number of trials that failed",
    "untrained": "number of networks whose training loss is still that of chance",
    "test_accuracy": "accuracy on the test set after the last epoch, in [0, 1]",
    "below_dense": "test accuracy of the dense network of the same seed minus this one's, in [-1, 1]",
    "train_loss": "mean cross-entropy of training in the last epoch, in nats",
    "achieved_sparsity": "share of the prunable weights that is removed, in [0, 1]",
    "effective_sparsity": "share of those that are removed or on no path from input to output, in [0, 1]",
    "dead_layers": "number of layers that keep nothing",
    "parameters_kept": "number of prunable weights that are kept",
    "flops_share": "operations of a forward pass that are kept, as a share of the dense ones: flops_kept / flops",
    "score_seconds": "seconds of scoring and selecting, all rounds",
    "score_peak_bytes": "bytes that scoring takes beyond what was in use before",
    "train_seconds": "seconds of training, divided by the number of networks that were trained together",
    "best_accuracy": "accuracy of the epoch that is best on the test set, in [0, 1]: for published numbers chosen so",
}
"""What the columns of `frame` are that are neither settings nor metrics of trained networks."""


def meanings(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """What each column of `frame` is, with its unit, in their order."""
    settings = {one.name: str(one.metadata["help"]) for one in dataclasses.fields(TrainingSettings)}
    numbers = [metric.name for metric in (*METRICS, BEST)]
    first = [*SHARED, *(name for name in MEANINGS if name not in (*SHARED, *numbers))]
    found = {name: MEANINGS.get(name) or settings[name] for name in first}
    for name in dict.fromkeys([*numbers, *(m.name for one in comparisons for m in evaluated(one.rows))]):
        what = MEANINGS.get(name, "metric of the trained networks, as `pai-bench list metrics` describes it")
        found |= {name: f"{what}; mean over seeds", f"{name}_sd": f"sample standard deviation of {name}"}
        found |= {f"{name}_{end}": f"{end} end of the 95 % interval of {name}" for end in ("low", "high")}
    return found


def as_json(comparisons: Sequence[Comparison]) -> str:
    """`frame` as JSON: ``columns`` with what each is, and ``rows``; what is not known is null, infinity ``"inf"``."""
    made = frame(comparisons)
    rows = [dict(zip(made.columns, map(plain, row), strict=True)) for row in made.itertuples(index=False)]
    return json.dumps({"columns": meanings(comparisons), "rows": rows}, indent=1, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """A value of a cell as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return None if isinstance(value, float) and math.isnan(value) else value


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """`frame` as comma-separated values; a ``'`` precedes texts that spreadsheets would take for a formula."""
    return frame(comparisons).map(no_formula).to_csv(index=False, lineterminator="\n")


def no_formula(value: object) -> object:
    """The value of a cell; a text that begins like a formula follows a ``'``."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def as_latex(comparisons: Sequence[Comparison]) -> str:
    """A LaTeX tabular for each comparison, with booktabs' rules."""
    parts = []
    for comparison in comparisons:
        rows = table(comparison)
        head, *body = (" & ".join(map(latex, row)) + r" \\" for row in rows)
        comment = " ".join(f"{comparison.title}; {comparison.protocol}".split())  # a line break would end it
        lines = [f"% {comment}", rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", r"\toprule", head, r"\midrule"]
        parts.append("\n".join([*lines, *body, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


LATEX = {c: rf"\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}


def latex(text: str) -> str:
    r"""`text` escaped for LaTeX, in one line; ``{}`` precedes a bracket or asterisk, which ``\\`` would read."""
    line = "".join(LATEX.get(character, character) for character in " ".join(text.split()))
    return f"{{}}{line}" if line.startswith(("[", "*")) else line


def as_html(comparisons: Sequence[Comparison]) -> str:
    """A page with an HTML table for each comparison."""
    parts = ['<!doctype html>\n<meta charset="utf-8">\n<title>pai-bench</title>']
    for comparison in comparisons:
        head, *body = table(comparison)
        caption = html.escape(f"{comparison.title}. {comparison.protocol}")
        lines = ["<table>", f"<caption>{caption}</caption>", f"<thead>{html_row('th', head)}</thead>", "<tbody>"]
        parts.append("\n".join([*lines, *(html_row("td", row) for row in body), "</tbody>", "</table>"]))
    return "\n\n".join(parts) + "\n"


def html_row(tag: str, cells: Sequence[str]) -> str:
    """A row of a table in HTML, each cell in a `tag`."""
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "csv": as_csv,
    "json": as_json,
    "latex": as_latex,
    "html": as_html,
}
