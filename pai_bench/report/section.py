"""The part of a report about one network on one data set: its sentences, tables and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pai_bench.experiment.trial import DENSE
from pai_bench.report import during_training, findings, literature, metrics, pairs, robustness, smaller_networks, tables
from pai_bench.report.figures import bar_charts, curves, masks
from pai_bench.report.figures.accuracy import accuracy
from pai_bench.report.figures.pareto import pareto
from pai_bench.report.pairs import Pair
from pai_bench.report.similarity import similarity
from pai_bench.report.statistics import FEWEST
from pai_bench.report.summary import Comparison, plural
from pai_bench.results import Cost, Layer, Record


@dataclass(frozen=True)
class Section:
    """The report of one comparison: findings in a sentence each; paragraphs, tables and figures in markdown."""

    pairs: list[Pair]
    findings: list[str]
    parts: list[str]


FIGURES = (
    *("accuracy", "pareto", "scoring", "smaller", "training-cost", "sparsity", "curves", "fit", "layers", "likeness"),
    *("pixels", "robust", "security"),
)
"""All figures that a section may have."""

Paths = Mapping[str, Path]
"""The path of each of the `FIGURES`, relative to the report."""


def section(
    comparison: Comparison,
    records: Mapping[str, Record],
    folder: Path,
    paths: Paths,
    x: str,
    costs: Sequence[Cost] = (),
    margin: float | None = None,
) -> Section:
    """The section about `comparison`, with its `records` by identity; draws its figures below `folder`.

    `costs` of the same smaller networks, if there are any, give the times of their forward passes. Criteria that differ
    by less than a `margin` in points are called equal, where there are seeds enough to say so.
    """
    random_labels = comparison.random_labels  # test accuracies are chance, and are not compared
    tested = [] if random_labels else pairs.pairs(comparison, margin)
    sentences = metrics.fitted(comparison) if random_labels else findings.sentences(comparison, tested)
    sentences += findings.untrained(comparison)
    pruned = comparison.rows[comparison.rows.criterion != DENSE]
    if len(pruned) and (pruned.status == "failed").all():
        sentences = [f"Every pruned trial failed ({len(pruned)}): nothing is compared."]
    parts = [
        f"## {tables.escaped(comparison.title)}",
        f"Protocol: {tables.escaped(comparison.protocol)}. {plural(comparison.seeds, 'seed')}. "
        f"Score time: median after a warm-up.{sizes(pruned)}",
        tables.markdown(tables.accuracy(comparison)),
    ]
    if remarks := tables.remarks(comparison):
        parts.append(tables.bullets(remarks))
    parts += published(comparison)
    if any(cell.accuracies for cell in comparison.cells.values()) and comparison.trained:
        accuracy(comparison, folder / paths["accuracy"], x)
        parts.append(tables.image(f"Test accuracy against sparsity, {comparison.title}", paths["accuracy"]))
    if tested and comparison.trained:
        parts += [
            pairs.power(tested) or "",
            tables.details("All pairs of criteria", tables.markdown(pairs.table(tested))),
        ]
    parts += ["### Cost", tables.markdown(tables.cost(comparison))]
    parts += [smaller_networks.UNSTRUCTURED] if smaller_networks.has_unstructured(comparison) else []
    parts += figures(comparison, records, folder, paths)
    parts += smaller_networks.parts(comparison, records, costs, folder, paths["smaller"])
    parts += during_training.parts(comparison, records, folder, paths["training-cost"], paths["sparsity"])
    parts += robustness.parts(comparison, folder, paths["robust"], paths["security"])
    parts.append(tables.details("All measured numbers, means over seeds", tables.markdown(metrics.table(comparison))))
    if densities := layer_densities(comparison, records):
        parts.append(tables.details("Density of each layer in per cent, kept and effective", densities))
    text = "\n".join(parts)
    for path in paths.values():
        if path.as_posix() not in text:
            (folder / path).unlink(missing_ok=True)  # of an earlier report
    return Section(tested, sentences if comparison.trained else [], parts)


def sizes(pruned: pd.DataFrame) -> str:
    """How much can be pruned, a sentence for each choice of what is, where its trials agree."""
    text = ""
    for choice, rows in pruned.groupby("prunable", dropna=False):
        counts = rows[["parameters", "parameters_not_prunable"]].dropna().drop_duplicates()
        if len(counts) == 1:
            prunable, others = (int(value) for value in counts.iloc[0])
            which = f" ({choice})" if pruned["prunable"].nunique() > 1 else ""
            text += f" {prunable:,} weights can be pruned{which}; {plural(others, 'other parameter')} cannot."
    return text


def published(comparison: Comparison) -> list[str]:
    """Published numbers of the same network, data, criteria and sparsities, and of methods quoted in their tables."""
    if not (matches := literature.match_published(comparison)):
        return []
    parts = [
        "### Beside published numbers",
        "Accuracies in per cent, ± standard deviation (number of runs), as far as they are published. The difference "
        "is ours minus theirs, ours chosen as theirs was: where the published epoch is the best one on the test set, "
        "so is ours here, and nowhere else in this report. Inside our spread: within the interval in which a mean of "
        "as many new runs as theirs (one if not known) would fall in 95 % of cases, if theirs were drawn as ours; it "
        f"takes {FEWEST} seeds, none of them at chance.",
        tables.markdown(literature.table(matches)),
        "\n".join(f"* {line}" for line in literature.protocols(matches, comparison)),
    ]
    if quoted := literature.quoted_methods(matches, comparison):
        parts.append("Other methods in the same published tables, as they are quoted there. None was run here.")
        parts.append(tables.markdown(quoted))
    return parts


def figures(comparison: Comparison, records: Mapping[str, Record], folder: Path, paths: Paths) -> list[str]:
    """The figures of cost, layers, masks and learning, each at the highest sparsity, as far as the records allow."""
    if not comparison.sparsities:
        return []
    highest, parts = comparison.sparsities[-1], []

    def add(name: str, caption: str, draw: Callable[[Path], bool]) -> None:
        if draw(folder / paths[name]):
            parts.append(tables.image(f"{caption}, {comparison.title}", paths[name]))

    at = f"at sparsity {highest:.10g}"
    if comparison.trained and not comparison.random_labels:  # with random labels, accuracies are chance
        add("pareto", f"Accuracy against cost {at}", lambda p: pareto(comparison, highest, p))
    add("scoring", "Cost of a mask in training steps", lambda p: bar_charts.mask_costs(comparison, p))
    add("curves", f"Learning curves {at}", lambda p: curves.learning(comparison, highest, records, p))
    if comparison.label_noise:
        add("fit", f"Training loss {at}", lambda p: curves.learning(comparison, highest, records, p, loss=True))
    add("layers", f"Density of each layer {at}", lambda p: masks.densities(comparison, highest, records, p))
    if (result := similarity(comparison, highest, records)) is not None:
        subject = f"{comparison.title}\nsparsity {highest:.10g}, {plural(result.seeds, 'seed')}"
        add("likeness", f"Likeness of masks {at}", lambda p: masks.similarities(subject, result, p))
    pixels = "Connections of each pixel, first seed, each picture as bright as its brightest pixel"
    add("pixels", pixels, lambda p: masks.first_layer(comparison, comparison.sparsities, records, p))
    return parts


def layer_densities(comparison: Comparison, records: Mapping[str, Record]) -> str:
    """Per sparsity, a table of layers by criterion: shares kept and effective, means over seeds, in per cent."""
    parts = []
    for sparsity in comparison.sparsities:
        columns: dict[str, dict[str, str]] = {}
        sizes: dict[str, list[int]] = {}
        for method in comparison.methods:
            identities = comparison.cell(method, sparsity).identities
            layers = tables.grouped(
                (layer for identity in identities for layer in records[identity].pruning.layers), lambda one: one.name
            )
            if layers:
                sizes |= {name: sorted({layer.size for layer in seeds}) for name, seeds in layers.items()}
                columns[method] = {name: shares(seeds) for name, seeds in layers.items()}
        if columns:
            body = [
                [
                    name,
                    " or ".join(f"{size:,}" for size in of_layer),
                    *(shown.get(name, "") for shown in columns.values()),
                ]
                for name, of_layer in sizes.items()
            ]
            table = tables.markdown([["layer", "weights", *columns], *body])
            parts.append(f"Sparsity {sparsity:.10g}:\n\n{table}")
    return "\n\n".join(parts)


def shares(layers: Sequence[Layer]) -> str:
    """The share of a layer that is kept, and that is effective where that is another, over seeds, in per cent."""
    size, kept = sum(layer.size for layer in layers), sum(layer.kept for layer in layers)
    effective = sum(layer.kept if layer.effective is None else layer.effective for layer in layers)
    return f"{100 * kept / size:.3g}" + (f" / {100 * effective / size:.3g}" if effective != kept else "")
