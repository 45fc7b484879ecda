"""The markdown report of a results folder."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from pai_bench.errors import UserError
from pai_bench.report import benchmark, collapse, costs, literature, metrics, pairs, tables
from pai_bench.report.figures import costs as by_cost
from pai_bench.report.figures import curves, masks
from pai_bench.report.figures.comparison import accuracy
from pai_bench.report.pairs import Pair
from pai_bench.report.provenance import caveats, provenance
from pai_bench.report.similarity import similarity
from pai_bench.report.statistics import LEVEL
from pai_bench.report.summary import Cell, Comparison, comparisons, plural
from pai_bench.store import Collapse, Cost, Layer, Record, Store, as_frame


def write_report(
    store: Store, path: Path, *, x: str = "direct", suffix: str = "svg", timings: Path | None = None
) -> Path:
    """Write the report of everything in `store` to `path`, its figures into ``figures/`` beside it.

    The figures' axis `x` is the ``direct`` sparsity or the ``effective`` one; their format is ``svg`` or ``png``.
    `timings` is a file of pytest-benchmark, which becomes a part of the report.
    """
    records, measured, collapses = list(store), store.read_costs(), store.read_collapses()
    if not records and not measured and not collapses:
        raise UserError(f"results folder {store.path} has no readable results")
    with suppress(OSError):  # of a name that is too long: writing it says so
        path = path / "report.md" if path.is_dir() else path
    store.refuse(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = page(records, path, measured, collapses, x=x, suffix=suffix, timings=timings, left_out=store.left_out)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"the report cannot be written to {path} ({error.strerror or error})") from error
    return path


def page(
    records: list[Record],
    path: Path,
    measured: list[Cost],
    collapses: list[Collapse],
    *,
    x: str = "direct",
    suffix: str = "svg",
    timings: Path | None = None,
    left_out: Mapping[str, str] | None = None,
) -> str:
    """The text of the report; draws its figures on the way. `left_out` are files that could not be read."""
    records = sorted(records, key=lambda record: record.identity)
    measured_elsewhere = benchmark.section(timings) if timings else []
    found = comparisons(as_frame(records)) if records else []
    two_by_two = [pairs.pairs(comparison) if comparison.label_noise != 1 else [] for comparison in found]
    parts = ["# Pruning at initialisation: a comparison", summary(records)]
    if not records:
        parts = ["# Pruning at initialisation: " + ("what it costs" if measured else "where networks fall apart")]
    figure_for = Figures(path.stem, suffix)
    parts += in_short(found, two_by_two)
    by_identity = {record.identity: record for record in records}
    for comparison, same in zip(found, two_by_two, strict=True):
        parts += section(comparison, same, by_identity, path.parent, figure_for, x)
    parts += ranking(found, path.parent, figure_for)
    failed = [record for record in records if record.status == "failed"]
    if failed:
        parts += [
            "## Failed trials",
            tables.markdown([["trial", "error"], *([r.identity, r.error or ""] for r in failed)]),
        ]
    if measured:
        parts += costs.section(measured, path.parent, figure_for)
    if collapses:
        parts += collapse.section(collapses, path.parent, figure_for)
    parts += measured_elsewhere
    unread = [f"{name} could not be read and is left out: {why}." for name, why in sorted((left_out or {}).items())]
    if limits := unread + caveats(found, records, two_by_two):
        parts += ["## What limits these conclusions", "\n".join(f"* {line}" for line in limits)]
    parts += ["## How these numbers were made", provenance(records, measured, collapses)]
    return "\n\n".join(parts) + "\n"


class Figures:
    """Gives each figure of a report a file name of its own, by its title."""

    def __init__(self, stem: str, suffix: str) -> None:
        self.stem, self.suffix = stem, suffix
        self.names: set[str] = set()

    def __call__(self, title: str) -> Path:
        """The path of a figure, relative to the report."""
        slug = re.sub(r"[^a-z0-9]+", "-", f"{self.stem}-{title}".lower()).strip("-")[:100]
        name = next(name for i in count(1) if (name := f"{slug}-{i}" if i > 1 else slug) not in self.names)
        self.names.add(name)
        return Path("figures") / f"{name}.{self.suffix}"


def summary(records: list[Record]) -> str:
    """What the report holds, in a few sentences."""
    status = Counter(record.status for record in records)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(status.items()))
    drawn = {tuple(r.trial.get(key) for key in SCORE_BATCH) for r in records if r.trial["criterion"]}
    batch = ", score batch" if len(drawn) < 2 else ""
    return (
        f"{plural(len(records), 'trial')} ({counts}). Accuracies are of the last epoch on the test set, in per cent, "
        "mean ± sample standard deviation over seeds. For one seed, all criteria and sparsities share initial "
        f"weights{batch} and order of training batches. Sparsity is the share of prunable weights removed; effective "
        "sparsity, in brackets, that of weights which are removed or lie on no path from the input to the output. A "
        "network without any path is not trained, unless asked for: its accuracy is that of its constant output."
    )


SCORE_BATCH = ("score_batch", "score_batches", "score_sampling")
"""What decides which examples are scored, beside the seed."""

SHORT = (
    f"Differences are in points of test accuracy, with {100 * (1 - LEVEL):.0f} % intervals, over the seeds that both "
    "criteria have. What beats another does so after Holm's correction over all pairs of criteria and sparsities of "
    "its network; the intervals, Student's t below ten seeds and a bootstrap (BCa) from there on, are not corrected."
)


RANDOM_LABELS = (
    "All training labels are random: what can be compared is how well they are fitted. They teach nothing of the test "
    "set, whose accuracies are not compared."
)


def in_short(found: Sequence[Comparison], two_by_two: Sequence[Sequence[Pair]]) -> list[str]:
    """The findings, a sentence for each sparsity."""
    parts, compared = [], False
    for comparison, same in zip(found, two_by_two, strict=True):
        fits = comparison.label_noise == 1
        lines = metrics.fitted(comparison) if fits else pairs.sentences(comparison, same)
        if comparison.trained and lines:
            compared |= not fits
            parts += [f"**{tables.escaped(comparison.title)}**", *([RANDOM_LABELS] if fits else [])]
            parts.append("\n".join(f"* {tables.escaped(line)}" for line in lines))
    return ["## In short", *([SHORT] if compared else []), *parts] if parts else []


def section(
    comparison: Comparison,
    same: Sequence[Pair],
    records: Mapping[str, Record],
    folder: Path,
    figure_for: Figures,
    x: str,
) -> list[str]:
    """The part of the report about one network on one data set; draws its figures below `folder`."""
    title = tables.escaped(comparison.title)
    parts = [
        f"## {title}",
        f"Protocol: {comparison.protocol}. {plural(comparison.seeds, 'seed')}. Score time: median after a warm-up.",
        tables.markdown(tables.accuracy(comparison)),
    ]
    if cuts := tables.disconnections(comparison):
        parts.append("\n".join(f"* {line}" for line in cuts))
    parts += against_literature(comparison)
    if comparison.cells and comparison.trained:
        figure = figure_for(comparison.title)
        accuracy(comparison, folder / figure, x)
        parts.append(f"![Test accuracy against sparsity, {title}]({figure.as_posix()})")
    if len(same) and comparison.trained:
        parts += [pairs.power(same) or "", details("All pairs of criteria", tables.markdown(pairs.table(same)))]
    parts += ["### Cost", tables.markdown(tables.cost(comparison))]
    parts += drawn(comparison, records, folder, figure_for)
    parts.append(details("All measured numbers, means over seeds", tables.markdown(metrics.table(comparison))))
    if comparison.cells:
        name = "Density of each layer in per cent, kept and effective"
        parts.append(details(name, layer_densities(comparison, records)))
    return parts


def details(title: str, text: str) -> str:
    """A part that a reader has to open."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def against_literature(comparison: Comparison) -> list[str]:
    """Published numbers of the same network, data, criteria and sparsities, if there are any."""
    found = literature.beside(comparison)
    if not found:
        return []
    return [
        "### Beside published numbers",
        "Accuracies in per cent, ± standard deviation (number of runs), as far as they are published. The difference "
        "is ours minus theirs, ours chosen as theirs was: where the published epoch is the best one on the test set, "
        "so is ours here, and nowhere else in this report. Inside our spread: within the interval in which a mean of "
        "as many new runs as theirs (one if not known) would fall in 95 % of cases, if theirs were drawn as ours.",
        tables.markdown(literature.table(found)),
        "\n".join(f"* {line}" for line in literature.protocols(found, comparison)),
    ]


def drawn(comparison: Comparison, records: Mapping[str, Record], folder: Path, figure_for: Figures) -> list[str]:
    """The figures of cost, layers, masks and learning, each at the highest sparsity, as far as the records allow."""
    if not comparison.sparsities:
        return []
    highest, parts = comparison.sparsities[-1], []

    def add(name: str, caption: str, draw: Callable[[Path], object]) -> None:
        figure = figure_for(f"{name} {comparison.title}")
        (folder / figure).unlink(missing_ok=True)  # of an earlier report
        draw(folder / figure)
        if (folder / figure).is_file():
            parts.append(f"![{caption}, {tables.escaped(comparison.title)}]({figure.as_posix()})")

    at = f"at sparsity {highest:.10g}"
    if comparison.trained:
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


def ranking(found: Sequence[Comparison], folder: Path, figure_for: Figures) -> list[str]:
    """Ranks over networks and data sets, where there are several."""
    ranks = pairs.ranking(found)
    if ranks is None or ranks.blocks < 2:
        return []
    left = sorted({method for one in found for method in one.methods} - set(ranks.methods))
    more = f" Not in all blocks, and left out: {', '.join(left)}." if left else ""
    if len({(one.data, one.model) for one in found}) < len(found):
        chosen = "; ".join(block.title for block in pairs.blocks_of(found))
        more += f" Of several settings of one network, the plainest and then the one with most cells: {chosen}."
    order = sorted(range(len(ranks.methods)), key=lambda i: ranks.mean[i])
    body = [[ranks.methods[i], f"{ranks.mean[i]:.2f}"] for i in order]
    parts = [
        "## Ranks",
        f"Mean rank over {ranks.blocks} blocks (network x data set; in each, the mean accuracy over its sparsities), "
        f"1 the best. {pairs.friedman(ranks)}{more}",
        tables.markdown([["criterion", "mean rank"], *body]),
    ]
    if ranks.critical < len(ranks.methods) - 1:
        figure = figure_for("ranks")
        curves.critical_difference(ranks, folder / figure)
        parts.append(f"![Mean ranks and critical difference]({figure.as_posix()})")
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
                for layer in records[identity].layers:
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
