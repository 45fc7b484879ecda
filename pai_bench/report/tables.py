"""Tables of a comparison, as lists of rows of which the first is the head; and how numbers and markdown are written."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd

from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes
from pai_bench.report.summary import Comparison, plural
from pai_bench.results import BenchmarkResult, Cost

Table = list[list[str]]

Key = TypeVar("Key")
Item = TypeVar("Item")


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The items of each key, in order of appearance."""
    groups: defaultdict[Key, list[Item]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)


def from_rows(rows: Sequence[Mapping[str, str]]) -> Table:
    """A table of rows that all have the same keys, which become the head."""
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def accuracy(comparison: Comparison) -> Table:
    """Test accuracy in per cent by criterion and sparsity, with the effective sparsity, beside the dense reference."""
    head = ["criterion", "dense", *(f"sparsity {s:.10g}" for s in comparison.sparsities), "score"]
    body = [
        [
            method,
            str(comparison.dense),
            *(str(comparison.cells.get((method, s), "–")) for s in comparison.sparsities),
            duration(comparison.rows[comparison.rows.method == method].score_seconds.median()),
        ]
        for method in comparison.methods
    ]
    return [head, *(body or [["dense", str(comparison.dense), ""]])]


def remarks(comparison: Comparison) -> list[str]:
    """Explanations of the marks in the table of accuracies, a line for each method and sparsity."""
    return [*disconnections(comparison), *untrained(comparison)]


def untrained(comparison: Comparison) -> list[str]:
    """The connected networks whose training loss is at chance."""
    rows = comparison.rows[outcomes.untrained(comparison.rows)]
    what = "memorised nothing of the random labels" if comparison.label_noise else "did not train"
    lines = []
    for _, group in rows.groupby(["method", "sparsity"]):
        method, sparsity = group.method.iloc[0], group.sparsity.iloc[0]
        cell = comparison.cell(method, sparsity)
        where = f"{method} at {sparsity:.10g}" if sparsity or method != DENSE else DENSE
        lines.append(
            f"§ {comparison.model}, {where}: {what} ({len(group)} of {plural(len(cell.accuracies), 'seed')}); "
            f"training loss {group.train_loss.astype(float).mean():.3f}, by chance {group.chance_loss.mean():.3f}"
        )
    return lines


def disconnections(comparison: Comparison) -> list[str]:
    """The networks that are disconnected, or have a dead layer."""
    lines = []
    disconnected, dead = outcomes.disconnected(comparison.rows), comparison.rows.dead_layers.map(bool)
    rows = comparison.rows.assign(disconnected=disconnected)[disconnected | dead]
    for _, group in rows.groupby(["method", "sparsity"]):
        method, sparsity = group.method.iloc[0], group.sparsity.iloc[0]
        cell = comparison.cell(method, sparsity)
        start, of = f"{comparison.model}, {method} at {sparsity:.10g}", plural(len(cell.accuracies), "seed")
        if len(cut := group[group.disconnected]):
            trained = "" if (cut.status == "disconnected").all() else "; trained all the same"
            where = ", ".join(sorted({str(name) for name in cut.first_cut.dropna()}))
            lines.append(f"‡ {start}: no path from input to output ({len(cut)} of {of}), first cut {where}{trained}")
        if len(connected := group[~group.disconnected]):
            names = sorted({name for names in connected.dead_layers for name in names})
            lines.append(f"† {start}: dead {', '.join(names)} ({len(connected)} of {of})")
    return lines


def cost(comparison: Comparison) -> Table:
    """Median seconds of scoring and training, and memory of scoring, by criterion."""
    head = ["criterion", "schedule", "score", "peak memory", "training", "images/s", "device"]
    body = []
    for method, group in comparison.rows[comparison.rows.status != "failed"].groupby("method", sort=False):
        peak = group.score_peak_bytes.dropna()
        body.append(
            [
                str(method),
                "" if method == DENSE else str(group.schedule.iloc[0]),
                duration(group.score_seconds.median()),
                "" if method == DENSE else size(peak.median() if len(peak) else None),
                duration(outcomes.training_seconds(group).median()),
                "" if group.images_per_second.isna().all() else f"{group.images_per_second.median():,.0f}",
                ", ".join(sorted(group.device.dropna().unique())),
            ]
        )
    return [head, *body]


def percent(shares: "pd.Series[float]") -> str:
    """The mean of some shares in per cent; empty where none is known."""
    return written(100 * shares.mean(), three_digits)


def written(value: float, form: Callable[[float], str]) -> str:
    """A number as `form` writes it; empty if it is not known."""
    return "" if pd.isna(value) else form(value)


def three_digits(value: float) -> str:
    """A number with three significant digits; large ones without an exponent, 1,230 and not 1.23e+03."""
    return f"{float(f'{value:.3g}'):,.0f}" if 999.5 <= abs(value) < 1e15 else f"{value:.3g}"


def size(count: float | None) -> str:
    """A number of bytes in MiB or GiB."""
    if count is None:
        return "not measured"
    mebibytes = count / 2**20
    return f"{mebibytes:.3g} MiB" if mebibytes < 999.5 else f"{mebibytes / 1024:.3g} GiB"  # three digits, no exponent


def duration(seconds: float | None) -> str:
    """Seconds in ms, s, minutes or hours; empty for NaN or None."""
    if seconds is None or pd.isna(seconds):
        return ""
    if seconds < 0.9995:  # what would be 1000 ms is a second
        return f"{seconds * 1000:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def machine(result: BenchmarkResult | Cost) -> str:
    """The device, or the processor where that is the device."""
    return result.environment.device if result.device != "cpu" else result.environment.processor


def image(caption: str, path: Path) -> str:
    """A figure with its caption, in markdown."""
    return f"![{escaped(caption)}]({path.as_posix()})"


def details(title: str, text: str) -> str:
    """A part that a reader has to open."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def bullets(lines: Iterable[str]) -> str:
    """A list in markdown."""
    return "\n".join(f"* {escaped(line)}" for line in lines)


def markdown(table: Table) -> str:
    """A table in GitHub's markdown; all columns but the first are aligned right."""
    head, *body = ([escaped(cell) for cell in row] for row in table)
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def escaped(text: str) -> str:
    """`text` in one line, escaped for markdown, in a table too.

    Flags in backticks, as in `--bn train`, stay code.
    """
    line = " ".join(text.split()).replace("<", "&lt;")
    return re.sub(r"`--[\w -]+`|[\\|*`]|(?<=\])[(:]", lambda m: m[0] if len(m[0]) > 1 else rf"\{m[0]}", line)


def code(text: str) -> str:
    """`text` in one line as code in markdown, between more backticks than it has in a row."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"
