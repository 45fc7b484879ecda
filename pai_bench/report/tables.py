"""Tables of a comparison, as lists of rows; the first row is the head."""

import re

import pandas as pd

from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes
from pai_bench.report.summary import Comparison, plural

Table = list[list[str]]


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
    """What the marks in the table of accuracies stand for."""
    return [*disconnections(comparison), *untrained(comparison)]


def untrained(comparison: Comparison) -> list[str]:
    """One line for each method and sparsity at which some connected network has a training loss of chance."""
    rows = comparison.rows
    rows = rows.assign(by_chance=outcomes.chance_losses(rows))[outcomes.untrained(rows)]
    what = "memorised nothing of the random labels" if comparison.label_noise else "did not train"
    lines = []
    for _, group in rows.groupby(["method", "sparsity"]):
        method, sparsity = group.method.iloc[0], group.sparsity.iloc[0]
        cell = comparison.cells.get((method, sparsity), comparison.dense)
        where = f"{method} at {sparsity:.10g}" if sparsity or method != DENSE else DENSE
        lines.append(
            f"§ {comparison.model}, {where}: {what} ({len(group)} of {plural(len(cell.accuracies), 'seed')}); "
            f"training loss {group.train_loss.astype(float).mean():.3f}, by chance {group.by_chance.mean():.3f}"
        )
    return lines


def disconnections(comparison: Comparison) -> list[str]:
    """One line for each method and sparsity at which a network is disconnected, or has a dead layer."""
    lines = []
    rows = comparison.rows
    rows = rows[(rows.connected == False) | rows.dead_layers.map(bool)]  # noqa: E712  # null is neither
    for _, group in rows.groupby(["method", "sparsity"]):
        method, sparsity = group.method.iloc[0], group.sparsity.iloc[0]
        cell = comparison.cells.get((method, sparsity), comparison.dense)
        start, of = f"{comparison.model}, {method} at {sparsity:.10g}", plural(len(cell.accuracies), "seed")
        if len(cut := group[group.connected == False]):  # noqa: E712  # null is neither
            trained = "" if (cut.status == "disconnected").all() else "; trained all the same"
            where = ", ".join(sorted({str(name) for name in cut.first_cut.dropna()}))
            lines.append(f"‡ {start}: no path from input to output ({len(cut)} of {of}), first cut {where}{trained}")
        dead = group[(group.connected != False) & group.dead_layers.map(bool)]  # noqa: E712
        if len(dead):
            names = sorted({name for names in dead.dead_layers for name in names})
            lines.append(f"† {start}: dead {', '.join(names)} ({len(dead)} of {of})")
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
                duration(group.train_seconds.median()),
                "" if group.images_per_second.isna().all() else f"{group.images_per_second.median():,.0f}",
                ", ".join(sorted(group.device.dropna().unique())),
            ]
        )
    return [head, *body]


def three_digits(value: float) -> str:
    """A number with three digits that count; large ones as a person writes them, 1,230 and not 1.23e+03."""
    return f"{float(f'{value:.3g}'):,.0f}" if 999.5 <= abs(value) < 1e15 else f"{value:.3g}"


def size(count: float | None) -> str:
    """A number of bytes as a person writes it."""
    if count is None:
        return "not measured"
    mebibytes = count / 2**20
    return f"{mebibytes:.3g} MiB" if mebibytes < 999.5 else f"{mebibytes / 1024:.3g} GiB"  # three digits, no exponent


def duration(seconds: float | None) -> str:
    """Seconds as a person writes them; nothing for NaN or None."""
    if seconds is None or pd.isna(seconds):
        return ""
    if seconds < 0.9995:  # what would be 1000 ms is a second
        return f"{seconds * 1000:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def markdown(table: Table) -> str:
    """A table in GitHub's markdown; all columns but the first are aligned right."""
    head, *body = ([escaped(cell) for cell in row] for row in table)
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))


def escaped(text: str) -> str:
    """`text` in one line, so that markdown shows it as it is, in a table too: no tag, no link, no heading.

    Flags in backticks, which only sentences of ours have, stay code.
    """
    line = " ".join(text.split()).replace("<", "&lt;")
    return re.sub(r"`--[\w -]+`|[\\|*`]|(?<=\])[(:]", lambda m: m[0] if len(m[0]) > 1 else rf"\{m[0]}", line)


def code(text: str) -> str:
    """`text` in one line as markdown's code, between more backticks than it has in a row."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"
