"""The markdown report of a results folder."""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

from pai_bench.experiment.settings import completed
from pai_bench.report import pytest_benchmark, rankings, tables
from pai_bench.report.benchmarks import section as benchmark_section
from pai_bench.report.collapse import section as collapse_section
from pai_bench.report.costs import section as cost_section
from pai_bench.report.figures import curves
from pai_bench.report.provenance import caveats, provenance
from pai_bench.report.section import FIGURES, Section, section
from pai_bench.report.statistics import FEWEST, FEWEST_RANKED, LEVEL, seeds_needed
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
    margin: float | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Path:
    """Write the report of everything in `store` to `path`, its figures into ``figures/`` beside it.

    The figures' axis `x` is the ``direct`` or the ``effective`` sparsity; their format `suffix` is ``svg`` or ``png``.
    `timings` is a file of pytest-benchmark, which becomes a part of the report; `on_progress` is called after each
    section. Only the newest version of each criterion is shown, unless `all_versions` is true. With a `margin` in
    points of accuracy, it is tested too which criteria are equal to within it. Returns the path of the report. Raises
    `UserError` if there are no readable results, or if `path` cannot be written.
    """
    if margin is not None and not 0 < margin < math.inf:
        raise UserError(f"margin {margin:g} is no positive number of points, such as 0.5")
    with no_collection():  # saves a quarter of the time with thousands of records
        records, costs, collapses = list(store), store.read_all(Cost), store.read_all(Collapse)
    benchmarks = store.read_all(BenchmarkResult)
    if not (records or costs or collapses or benchmarks):
        raise UserError(f"results folder {store.label} has no readable results")
    older: set[str] = set()
    if not all_versions:
        records, older_records = newest(records)
        costs, older_costs = newest(costs)
        collapses, older_collapses = newest(collapses)
        older = {*older_records, *older_costs, *older_collapses}
    path = path / "report.md" if os.path.isdir(path) else path
    outfile.check(path, "the report")
    store.check_report_path(path)
    text = page(
        records,
        path,
        costs,
        collapses,
        benchmarks,
        x=x,
        suffix=suffix,
        timings=timings,
        left_out=store.left_out,
        older=sorted(older),
        margin=margin,
        on_progress=on_progress,
    )
    outfile.write(path, text, "the report")
    return path


def page(
    records: Sequence[Record],
    path: Path,
    costs: Sequence[Cost],
    collapses: Sequence[Collapse],
    benchmarks: Sequence[BenchmarkResult] = (),
    *,
    x: str = "direct",
    suffix: str = "svg",
    timings: Path | None = None,
    left_out: Mapping[str, str] | None = None,
    older: Sequence[str] = (),
    margin: float | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> str:
    """The text of the report; draws its figures too.

    `left_out` are files that could not be read, with the reason; `older` the versions of criteria that are not shown.
    """
    records = sorted(records, key=lambda record: record.identity)
    timing_parts = pytest_benchmark.section(timings) if timings else []
    folder, figure_for = path.parent, Figures(path.stem, suffix)
    compared, sections = write_sections(records, costs, folder, figure_for, x, margin, on_progress)
    parts = [f"# Pruning at initialisation: {subject(records, costs, collapses)}"]
    parts += [summary(records)] if records else []
    parts += in_short(compared, sections)
    parts += [part for section in sections for part in section.parts]
    parts += ranking(compared, folder, figure_for)
    if failed := [[record.identity, record.error or ""] for record in records if record.status == "failed"]:
        parts += ["## Failed trials", tables.markdown([["trial", "error"], *failed])]
    parts += cost_section(costs, folder, figure_for) if costs else []
    parts += collapse_section(collapses, folder, figure_for) if collapses else []
    parts += benchmark_section(benchmarks, folder, figure_for) if benchmarks else []
    parts += timing_parts
    limits = [f"{name} could not be read and is left out: {why}." for name, why in sorted((left_out or {}).items())]
    limits += [f"{name} is not shown, since there is a newer version; `--all-versions` shows it." for name in older]
    limits += caveats(compared, records, [section.pairs for section in sections])
    parts += ["## What limits these conclusions", tables.bullets(limits)] if limits else []
    parts += ["## How these numbers were made", provenance(records, costs, collapses, benchmarks)]
    return "\n\n".join(parts) + "\n"


def subject(records: Sequence[Record], costs: Sequence[Cost], collapses: Sequence[Collapse]) -> str:
    """What a report is about."""
    if records:
        return "a comparison"
    if costs:
        return "what it costs"
    return "where networks fall apart" if collapses else "checks and measurements"


class Figures:
    """Gives each figure of a report a unique file name, made of its title."""

    def __init__(self, stem: str, suffix: str) -> None:
        self.stem, self.suffix = stem, suffix
        self.names: set[str] = set()

    def __call__(self, title: str) -> Path:
        """The path of a figure, relative to the report."""
        slug = re.sub(r"[^a-z0-9]+", "-", f"{self.stem}-{title}".lower()).strip("-")[:100]
        name = next(name for i in count(1) if (name := f"{slug}-{i}" if i > 1 else slug) not in self.names)
        self.names.add(name)
        return Path("figures") / f"{name}.{self.suffix}"


def summary(records: Sequence[Record]) -> str:
    """What the report holds, in a few sentences."""
    status = Counter(record.status for record in records)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(status.items()))
    batches = {tuple(completed(r.trial)[key] for key in SCORE_BATCH) for r in records if r.trial["criterion"]}
    batch = ", score batch" if len(batches) < 2 else ""
    units = {completed(r.trial)["sparsity_of"] for r in records if r.trial["criterion"]}
    of_others = " (of units or operations where a heading says so)" if units - {"weights"} else ""
    return (
        f"{plural(len(records), 'trial')} ({counts}). Accuracies are of the last epoch on the test set, in per cent, "
        "mean ± sample standard deviation over seeds. For one seed, all criteria and sparsities share initial "
        f"weights{batch} and order of training batches. Sparsity is the share of prunable weights removed{of_others}; "
        "effective sparsity, in brackets, that of weights which are removed or lie on no path from the input to the "
        "output. A network without any path is not trained, unless asked for: its accuracy is that of its constant "
        "output."
    )


SCORE_BATCH = ("score_batch", "score_batches", "score_sampling")
"""The settings that decide, with the seed, which examples are scored."""

SHORT = (
    f"Differences are in points of test accuracy, with {100 * (1 - LEVEL):.0f} % intervals, over the seeds that both "
    "criteria have. What beats another does so after Holm's correction over all pairs of criteria and sparsities of "
    f"its network, which takes {FEWEST} seeds, and more where some networks are at chance or disconnected: "
    f"{FEWEST_RANKED} for one pair, {seeds_needed(10)} for ten, {seeds_needed(60)} for sixty. The intervals, Student's "
    "t below ten seeds and a bootstrap (BCa) from there on, are not corrected; there is none where some networks are "
    "at chance or disconnected."
)


RANDOM_LABELS = (
    "All training labels are random: what can be compared is how well they are fitted. They hold no information "
    "about the test set: its accuracies and their differences are chance."
)


def in_short(compared: Sequence[Comparison], sections: Sequence[Section]) -> list[str]:
    """The findings, a sentence for each sparsity."""
    shown = [(comparison, own) for comparison, own in zip(compared, sections, strict=True) if own.findings]
    if not shown:
        return []
    parts = ["## In short", *([SHORT] if any(own.pairs for _, own in shown) else [])]
    for comparison, own in shown:
        parts += [f"**{tables.escaped(comparison.title)}**", *([RANDOM_LABELS] if comparison.random_labels else [])]
        parts.append(tables.bullets(own.findings))
    return parts


MOST_SECTIONS_ALONE, MOST_PROCESSES = 3, 4
"""Number of sections up to which one process writes all, since others first have to import; and of processes."""


def write_sections(
    records: Sequence[Record],
    costs: Sequence[Cost],
    folder: Path,
    figure_for: Figures,
    x: str,
    margin: float | None,
    on_progress: OnProgress,
) -> tuple[list[Comparison], list[Section]]:
    """All comparisons and their sections, written by several processes if there are many."""
    settings = {(r.trial["data"], r.trial["model"], str(r.trial["protocol"])) for r in records}
    others = min(processors(), MOST_PROCESSES) - 1 if len(settings) > MOST_SECTIONS_ALONE else 0
    with helpers(others, section.__module__) as processes:  # they import while this one makes tables
        with no_collection():
            compared = comparisons(as_frame(list(records))) if records else []
            for comparison in compared:
                _ = comparison.facts  # cached here, so that no other process loads the criteria
        by_identity = {record.identity: record for record in records}
        smaller = [cost for cost in costs if cost.smaller is not None]
        jobs = []
        for comparison in compared:
            own = {identity: by_identity[identity] for identity in comparison.rows.identity}
            title = comparison.title
            paths = {name: figure_for(title if name == "accuracy" else f"{name} {title}") for name in FIGURES}
            jobs.append((comparison, own, folder, paths, x, smaller, margin))
        on_progress(0, len(jobs))
        return compared, parallel_map(section, jobs, processes, lambda done: on_progress(done, len(jobs)))


def ranking(compared: Sequence[Comparison], folder: Path, figure_for: Figures) -> list[str]:
    """Ranks over networks and data sets, where there are several."""
    ranks = rankings.ranking(compared)
    if ranks is None or ranks.blocks < 2:
        return []
    text = rankings.friedman(ranks)
    if left_out := sorted({method for one in compared for method in one.methods} - set(ranks.methods)):
        text += f" Not in all blocks, and left out: {', '.join(left_out)}."
    if len({(one.data, one.model) for one in compared}) < len(compared):
        chosen = "; ".join(block.title for block in rankings.blocks_of(compared))
        text += f" Of several settings of one network, the plainest and then the one with most cells: {chosen}."
    by_rank = sorted(zip(ranks.methods, ranks.mean, strict=True), key=lambda item: item[1])
    parts = [
        "## Ranks",
        f"Mean rank over {ranks.blocks} blocks (network x data set; in each, the mean accuracy over the sparsities at "
        f"which all have trained), 1 the best. {tables.escaped(text)}",
        tables.markdown([["criterion", "mean rank"], *([method, f"{mean:.2f}"] for method, mean in by_rank)]),
    ]
    if ranks.critical < len(ranks.methods) - 1:
        figure = figure_for("ranks")
        curves.critical_difference(ranks, folder / figure)
        parts.append(tables.image("Mean ranks and critical difference", figure))
    return parts
