"""The part of a report about one network on one data set: its sentences, tables and figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pai_bench.experiment.trial import DENSE
from pai_bench.report import findings, literature, metrics, pairs, tables
from pai_bench.report.figures import costs as by_cost
from pai_bench.report.figures import curves, masks
from pai_bench.report.figures.accuracy import accuracy
from pai_bench.report.pairs import Pair
from pai_bench.report.similarity import similarity
from pai_bench.report.statistics import FEWEST
from pai_bench.report.summary import Cell, Comparison, plural
from pai_bench.results import Layer, Record


@dataclass(frozen=True)
class Section:
    """What the report of one comparison consists of."""

    pairs: list[Pair]
    findings: list[str]
    """A sentence each."""

    parts: list[str]
    """Paragraphs, tables and figures, in markdown."""


FIGURES = ("accuracy", "pareto", "scoring", "curves", "fit", "layers", "likeness", "pixels")
"""All that a section may have."""

Paths = Mapping[str, Path]
"""Of all `FIGURES`, relative to the report."""


def section(comparison: Comparison, records: Mapping[str, Record], folder: Path, paths: Paths, x: str) -> Section:
    """The section about `comparison`, of `records` by their identity; draws its figures below `folder`."""
    fits = comparison.label_noise == 1  # the test set says nothing of how well
    same = [] if fits else pairs.pairs(comparison)
    said = metrics.fitted(comparison) if fits else findings.sentences(comparison, same)
    said += findings.untrained(comparison)
    pruned = comparison.rows[comparison.rows.criterion != DENSE]
    if len(pruned) and (pruned.status == "failed").all():
        said = [f"Every pruned trial failed ({len(pruned)}): nothing is compared."]
    title, protocol = tables.escaped(comparison.title), tables.escaped(comparison.protocol)
    parts = [
        f"## {title}",
        f"Protocol: {protocol}. {plural(comparison.seeds, 'seed')}. Score time: median after a warm-up."
        + sizes(pruned),
        tables.markdown(tables.accuracy(comparison)),
    ]
    if remarks := tables.remarks(comparison):
        parts.append("\n".join(f"* {tables.escaped(line)}" for line in remarks))
    parts += against_literature(comparison)
    if any(cell.accuracies for cell in comparison.cells.values()) and comparison.trained:
        accuracy(comparison, folder / paths["accuracy"], x)
        parts.append(picture(f"Test accuracy against sparsity, {title}", paths["accuracy"]))
    if same and comparison.trained:
        parts += [pairs.power(same) or "", details("All pairs of criteria", tables.markdown(pairs.table(same)))]
    parts += ["### Cost", tables.markdown(tables.cost(comparison))]
    parts += drawn(comparison, records, folder, paths)
    parts.append(details("All measured numbers, means over seeds", tables.markdown(metrics.table(comparison))))
    if densities := layer_densities(comparison, records):
        parts.append(details("Density of each layer in per cent, kept and effective", densities))
    shown = "\n".join(parts)
    for path in paths.values():
        if path.as_posix() not in shown:
            (folder / path).unlink(missing_ok=True)  # of an earlier report
    return Section(same, said if comparison.trained else [], parts)


def sizes(pruned: pd.DataFrame) -> str:
    """How much can be pruned, in a sentence for each choice of what is to be, where its trials say the same."""
    said = ""
    for choice, rows in pruned.groupby("prunable", dropna=False):
        found = rows[["parameters", "parameters_not_prunable"]].dropna().drop_duplicates()
        if len(found) == 1:
            prunable, others = (int(value) for value in found.iloc[0])
            of = f" ({choice})" if pruned["prunable"].nunique() > 1 else ""
            said += f" {prunable:,} weights can be pruned{of}; {plural(others, 'other parameter')} cannot."
    return said


def picture(caption: str, path: Path) -> str:
    """A figure with its caption."""
    return f"![{caption}]({path.as_posix()})"


def details(title: str, text: str) -> str:
    """A part that a reader has to open."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def against_literature(comparison: Comparison) -> list[str]:
    """Published numbers of the same network, data, criteria and sparsities, if there are any."""
    found = literature.match_published(comparison)
    if not found:
        return []
    return [
        "### Beside published numbers",
        "Accuracies in per cent, ± standard deviation (number of runs), as far as they are published. The difference "
        "is ours minus theirs, ours chosen as theirs was: where the published epoch is the best one on the test set, "
        "so is ours here, and nowhere else in this report. Inside our spread: within the interval in which a mean of "
        "as many new runs as theirs (one if not known) would fall in 95 % of cases, if theirs were drawn as ours; it "
        f"takes {FEWEST} seeds, none of them at chance.",
        tables.markdown(literature.table(found)),
        "\n".join(f"* {line}" for line in literature.protocols(found, comparison)),
        *others(literature.quoted_beside(found, comparison)),
    ]


def others(quoted: tables.Table) -> list[str]:
    """Methods that the same published tables quote, as rows of their own."""
    told = "Other methods in the same published tables, as they are quoted there. None was run here."
    return [told, tables.markdown(quoted)] if len(quoted) > 1 else []


def drawn(comparison: Comparison, records: Mapping[str, Record], folder: Path, paths: Paths) -> list[str]:
    """The figures of cost, layers, masks and learning, each at the highest sparsity, as far as the records allow."""
    if not comparison.sparsities:
        return []
    highest, parts = comparison.sparsities[-1], []

    def add(name: str, caption: str, draw: Callable[[Path], bool]) -> None:
        if draw(folder / paths[name]):
            parts.append(picture(f"{caption}, {tables.escaped(comparison.title)}", paths[name]))

    at = f"at sparsity {highest:.10g}"
    if comparison.trained and comparison.label_noise != 1:  # there, accuracies are chance
        add("pareto", f"Accuracy against cost {at}", lambda p: by_cost.pareto(comparison, highest, p))
    add("scoring", "Cost of a mask in training steps", lambda p: by_cost.scoring(comparison, p))
    add("curves", f"Learning curves {at}", lambda p: curves.learning(comparison, highest, records, p))
    if comparison.label_noise:
        add("fit", f"Training loss {at}", lambda p: curves.learning(comparison, highest, records, p, loss=True))
    add("layers", f"Density of each layer {at}", lambda p: masks.densities(comparison, highest, records, p))
    if (alike := similarity(comparison, highest, records)) is not None:
        where = f"{comparison.title}\nsparsity {highest:.10g}, {plural(alike.seeds, 'seed')}"
        add("likeness", f"Likeness of masks {at}", lambda p: masks.likeness(where, alike, p))
    add(
        "pixels",
        "Connections of each pixel, first seed, each picture as bright as its brightest pixel",
        lambda p: masks.first_layer(comparison, comparison.sparsities, records, p),
    )
    return parts


def layer_densities(comparison: Comparison, records: Mapping[str, Record]) -> str:
    """Per sparsity, a table of layers by criterion: shares kept and effective, means over seeds, in per cent."""
    parts = []
    for sparsity in comparison.sparsities:
        columns: dict[str, dict[str, str]] = {}
        sizes: dict[str, set[int]] = {}
        for method in comparison.methods:
            same: dict[str, list[Layer]] = {}
            for identity in comparison.cells.get((method, sparsity), Cell(())).identities:
                for layer in records[identity].pruning.layers:
                    same.setdefault(layer.name, []).append(layer)
            if same:
                sizes = {name: {layer.size for layer in layers} for name, layers in same.items()}
                columns[method] = {name: shares(layers) for name, layers in same.items()}
        head = ["layer", "weights", *columns]
        body = [
            [
                name,
                " or ".join(f"{one:,}" for one in sorted(size)),
                *(column.get(name, "") for column in columns.values()),
            ]
            for name, size in sizes.items()
        ]
        if body:
            parts.append(f"Sparsity {sparsity:.10g}:\n\n{tables.markdown([head, *body])}")
    return "\n\n".join(parts)


def shares(layers: list[Layer]) -> str:
    """The share of a layer that is kept, and that is effective where that is another, over seeds, in per cent."""
    size, kept = sum(layer.size for layer in layers), sum(layer.kept for layer in layers)
    effective = sum(layer.kept if layer.effective is None else layer.effective for layer in layers)
    return f"{100 * kept / size:.3g}" + (f" / {100 * effective / size:.3g}" if effective != kept else "")
