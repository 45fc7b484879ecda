"""The markdown report of a results folder."""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

from pai_bench.experiment.settings import completed
from pai_bench.report import benchmark, collapse, costs, measurements, rankings, tables
from pai_bench.report.figures import curves
from pai_bench.report.provenance import caveats, provenance
from pai_bench.report.section import FIGURES, Section, section
from pai_bench.report.statistics import FEWEST, LEVEL, SETTLED, seeds_needed
from pai_bench.report.summary import Comparison, comparisons, plural
from pai_bench.report.versions import newest
from pai_bench.results import BenchmarkResult, Collapse, Cost, Record, Store, as_frame
from pai_bench.support import outfile
from pai_bench.support.errors import UserError
from pai_bench.support.garbage import no_collection
from pai_bench.support.parallel import helpers, parallel_map, processors

OnProgress = Callable[[int, int], None]
"""Called with how many sections are done, of how many."""


def write_report(
    store: Store,
    path: Path,
    *,
    x: str = "direct",
    suffix: str = "svg",
    timings: Path | None = None,
    all_versions: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Path:
    """Write the report of everything in `store` to `path`, its figures into ``figures/`` beside it.

    The figures' axis `x` is the ``direct`` sparsity or the ``effective`` one; their format is ``svg`` or ``png``.
    `timings` is a file of pytest-benchmark, which becomes a part of the report; `on_progress` is called meanwhile. Of
    each criterion, the newest version is shown, unless `all_versions` are asked for.
    """
    with no_collection():  # a quarter of the time that thousands of records take
        records, measured, collapses = list(store), store.read_costs(), store.read_collapses()
    if not (benchmarks := store.read_benchmarks()) and not records and not measured and not collapses:
        raise UserError(f"results folder {store.shown} has no readable results")
    older: list[str] = []
    if not all_versions:
        records, before = newest(records)
        measured, timed_before = newest(measured)
        collapses, searched_before = newest(collapses)
        older = sorted({*before, *timed_before, *searched_before})
    path = path / "report.md" if os.path.isdir(path) else path
    outfile.check(path, "the report")
    store.refuse(path)
    text = page(
        records,
        path,
        measured,
        collapses,
        benchmarks,
        x=x,
        suffix=suffix,
        timings=timings,
        left_out=store.left_out,
        older=older,
        on_progress=on_progress,
    )
    outfile.write(path, text, "the report")
    return path


def page(
    records: list[Record],
    path: Path,
    measured: list[Cost],
    collapses: list[Collapse],
    benchmarks: Sequence[BenchmarkResult] = (),
    *,
    x: str = "direct",
    suffix: str = "svg",
    timings: Path | None = None,
    left_out: Mapping[str, str] | None = None,
    older: Sequence[str] = (),
    on_progress: OnProgress = lambda done, total: None,
) -> str:
    """The text of the report; draws its figures on the way.

    `left_out` are files that could not be read, `older` the versions of criteria that are not shown.
    """
    records = sorted(records, key=lambda record: record.identity)
    measured_elsewhere = benchmark.section(timings) if timings else []
    figure_for = Figures(path.stem, suffix)
    found, sections = compared(records, path.parent, figure_for, x, on_progress)
    parts = ["# Pruning at initialisation: a comparison", summary(records)]
    if not records:
        parts = ["# Pruning at initialisation: " + subject(measured, collapses)]
    parts += in_short(found, sections)
    parts += [part for one in sections for part in one.parts]
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
    if benchmarks:
        parts += measurements.section(list(benchmarks), path.parent, figure_for)
    parts += measured_elsewhere
    unread = [f"{name} could not be read and is left out: {why}." for name, why in sorted((left_out or {}).items())]
    unread += [f"{name} is not shown, since there is a newer version; `--all-versions` shows it." for name in older]
    if limits := unread + caveats(found, records, [one.pairs for one in sections]):
        parts += ["## What limits these conclusions", "\n".join(f"* {tables.escaped(line)}" for line in limits)]
    parts += ["## How these numbers were made", provenance(records, measured, collapses, benchmarks)]
    return "\n\n".join(parts) + "\n"


def subject(measured: Sequence[Cost], collapses: Sequence[Collapse]) -> str:
    """What a report without trials is about."""
    if measured:
        return "what it costs"
    return "where networks fall apart" if collapses else "checks and measurements"


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
    drawn = {tuple(completed(r.trial)[key] for key in SCORE_BATCH) for r in records if r.trial["criterion"]}
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
    f"its network, which takes {FEWEST} seeds, and more where some networks are at chance or disconnected: {SETTLED} "
    f"for one pair, {seeds_needed(10)} for ten, {seeds_needed(60)} for sixty. The intervals, Student's t below ten "
    "seeds and a bootstrap (BCa) from there on, are not corrected; there is none where some networks are at chance or "
    "disconnected."
)


RANDOM_LABELS = (
    "All training labels are random: what can be compared is how well they are fitted. They teach nothing of the test "
    "set; its accuracies, where they stand, and their differences are chance."
)


def in_short(found: Sequence[Comparison], sections: Sequence[Section]) -> list[str]:
    """The findings, a sentence for each sparsity."""
    parts, compared = [], False
    for comparison, one in zip(found, sections, strict=True):
        if one.findings:
            fits = comparison.label_noise == 1
            compared |= bool(one.pairs)
            parts += [f"**{tables.escaped(comparison.title)}**", *([RANDOM_LABELS] if fits else [])]
            parts.append("\n".join(f"* {tables.escaped(line)}" for line in one.findings))
    return ["## In short", *([SHORT] if compared else []), *parts] if parts else []


FEW, MOST = 3, 4
"""Sections that are not worth another process, which has to import what they need; and processes at most."""


def compared(
    records: Sequence[Record], folder: Path, figure_for: Figures, x: str, on_progress: OnProgress
) -> tuple[list[Comparison], list[Section]]:
    """All comparisons, and the section of each, by several processes if there are more than a `FEW`."""
    kinds = {(r.trial["data"], r.trial["model"], str(r.trial["protocol"])) for r in records}
    others = min(processors(), MOST) - 1 if len(kinds) > FEW else 0
    with helpers(others, section.__module__) as processes:  # they import while this one makes tables
        with no_collection():
            found = comparisons(as_frame(list(records))) if records else []
            for comparison in found:
                _ = comparison.facts  # looked up here, so that no other process loads what they stand with
        by_identity = {record.identity: record for record in records}
        jobs = []
        for comparison in found:
            own = {identity: by_identity[identity] for identity in comparison.rows.identity}
            title = comparison.title
            paths = {name: figure_for(title if name == "accuracy" else f"{name} {title}") for name in FIGURES}
            jobs.append((comparison, own, folder, paths, x))
        on_progress(0, len(jobs))
        return found, parallel_map(section, jobs, processes, lambda done: on_progress(done, len(jobs)))


def ranking(found: Sequence[Comparison], folder: Path, figure_for: Figures) -> list[str]:
    """Ranks over networks and data sets, where there are several."""
    ranks = rankings.ranking(found)
    if ranks is None or ranks.blocks < 2:
        return []
    left = sorted({method for one in found for method in one.methods} - set(ranks.methods))
    said = [rankings.friedman(ranks), *([f"Not in all blocks, and left out: {', '.join(left)}."] if left else [])]
    if len({(one.data, one.model) for one in found}) < len(found):
        chosen = "; ".join(block.title for block in rankings.blocks_of(found))
        said.append(f"Of several settings of one network, the plainest and then the one with most cells: {chosen}.")
    order = sorted(range(len(ranks.methods)), key=lambda i: ranks.mean[i])
    body = [[ranks.methods[i], f"{ranks.mean[i]:.2f}"] for i in order]
    parts = [
        "## Ranks",
        f"Mean rank over {ranks.blocks} blocks (network x data set; in each, the mean accuracy over the sparsities at "
        f"which all have trained), 1 the best. {tables.escaped(' '.join(said))}",
        tables.markdown([["criterion", "mean rank"], *body]),
    ]
    if ranks.critical < len(ranks.methods) - 1:
        figure = figure_for("ranks")
        curves.critical_difference(ranks, folder / figure)
        parts.append(f"![Mean ranks and critical difference]({figure.as_posix()})")
    return parts
