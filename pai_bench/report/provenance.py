"""How the numbers of a report were made, and what limits the conclusions."""

import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from pai_bench.experiment.settings import ScoringSettings, completed, words
from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes, plugin_facts, tables
from pai_bench.report.literature import DENSITY_TOLERANCE
from pai_bench.report.pairs import UNTRAINED, Pair
from pai_bench.report.statistics import FEWEST, LEVEL, t_quantile
from pai_bench.report.summary import Comparison, plural
from pai_bench.results import BenchmarkResult, Collapse, Cost, Record
from pai_bench.results.stored import plain
from pai_bench.training.protocol import Protocol

Measured = Record | Cost | Collapse | BenchmarkResult


def provenance(
    records: Sequence[Record],
    costs: Sequence[Cost],
    collapses: Sequence[Collapse],
    benchmarks: Sequence[BenchmarkResult] = (),
) -> str:
    """Commands, data, versions and machines, as the records hold them."""
    lines: list[str] = []

    def add(title: str, values: Iterable[str | None], unit: str) -> None:
        for value, count in sorted(Counter(filter(None, values)).items()):
            shown = tables.code(value) if title.lower().endswith("command") else tables.escaped(value)
            lines.append(f"* {title}: {shown} ({plural(count, unit)})")

    measured: dict[str, Sequence[Cost | Collapse | BenchmarkResult]] = {
        "Timing": costs,
        "Collapse": collapses,
        "Benchmark": benchmarks,
    }
    for subject, results in measured.items():
        add(f"{subject} command", (one.provenance.command for one in results), "row")
        add(f"{subject} environment", map(describe_environment, results), "row")
        add(f"{subject} commit", map(describe_commit, results), "row")
    add("Command", (record.provenance.command for record in records), "trial")
    add("Data", map(describe_data, records), "trial")
    add("Criterion", map(describe_criterion, records), "trial")
    add("Concurrency", map(describe_concurrency, records), "trial")
    add("Environment", map(describe_environment, records), "trial")
    add("Commit", map(describe_commit, records), "trial")
    return "\n".join(lines)


def describe_data(record: Record) -> str:
    """Data set, sizes and checksum."""
    data = record.provenance.data
    return f"{data.label}, {data.train:,} training and {data.test:,} test examples, checksum {data.checksum}"


DESCRIBED = {"scope", "score_batch", "score_batches", "score_sampling"}
"""Settings that the description of every criterion names."""


def describe_criterion(record: Record) -> str | None:
    """A criterion with all its options, schedule and score batch; None for a dense network."""
    if (criterion := record.trial["criterion"]) is None:
        return None
    trial = completed(record.trial)
    parts = [f"{criterion['name']}: {criterion['schedule']}", trial["scope"]]
    parts += [trial["variant"]] if trial["variant"] != "none" else []
    names = [key for key in words(ScoringSettings) if key in record.trial and key not in DESCRIBED]
    parts += [f"{name.replace('_', ' ')} {trial[name]}" for name in names]
    parts += [f"also {', '.join(trial['traced'])}"] if trial["traced"] else []
    kept = [place for place in ("first", "last") if trial[f"keep_{place}"]]
    parts += [f"{' and '.join(kept)} layer kept whole"] if kept else []
    batches = f"{trial['score_batches']} x " if trial["score_batches"] > 1 else ""
    parts.append(f"score batch {batches}{trial['score_batch']} {trial['score_sampling']} examples")
    options = ", ".join(f"{key} {json.dumps(value)}" for key, value in criterion["options"])
    return ", ".join(parts) + (f"; {options}" if options else "")


def describe_environment(record: Measured) -> str:
    """Device, processor, threads and versions."""
    environment = record.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    machine = f"{environment.processor}, {environment.threads} threads, {environment.system}"
    device = ", ".join(filter(None, [environment.device, environment.kernels]))
    return f"{device}; {machine}; {versions}"


def describe_concurrency(record: Record) -> str | None:
    """What ran at the same time as a trial, which its times depend on."""
    workers, lanes = record.provenance.workers, record.provenance.lanes
    parts = [f"one of {workers} worker processes"] if workers > 1 else []
    branches = ", as branches" if record.provenance.together == "branches" else ""
    parts += [f"trained in one program with {plural(lanes - 1, 'other')}{branches}"] if lanes > 1 else []
    parts += ["compiled"] if record.provenance.compiled else []
    return ", ".join(parts) or None


def describe_commit(record: Measured) -> str | None:
    """The commit that made the record; None if it was not made from a git checkout."""
    if not (commit := record.provenance.commit):
        return None
    return f"{commit}, with changes that were not committed" if record.provenance.dirty else commit


def departures(records: Sequence[Record]) -> list[str]:
    """Differences from the authors' code, and what their papers leave open, criterion by criterion."""
    missing, trials = Counter[str](), Counter[str]()
    pruned = [record.trial for record in records if record.trial["criterion"] is not None]
    facts = plugin_facts.criteria(trial["criterion"]["name"] for trial in pruned)
    for trial in pruned:
        name, options = trial["criterion"]["name"], dict(trial) | dict(trial["criterion"]["options"])
        for choice in facts[plugin_facts.criterion_of(name)].authors_choices:
            line = f"{name}: its authors' code {choice.text}"
            trials[line] += 1
            missing[line] += not choice.is_made(options.get(choice.option))
    readings = [f"{name}: {one.own_reading}." for name, one in sorted(facts.items()) if one.own_reading]
    return readings + [
        f"{line}; here it does not{'' if count == trials[line] else f', in {count} of {trials[line]} trials'}."
        for line, count in sorted(missing.items())
        if count
    ]


def caveats(comparisons: Sequence[Comparison], records: Sequence[Record], pairs: Sequence[Sequence[Pair]]) -> list[str]:
    """All that limits the conclusions: failures, gaps, few seeds, cut networks, short training, other code or data."""
    lines = []
    if failed := sum(record.status == "failed" for record in records):
        lines.append(f"Failed, in no mean, and listed above: {plural(failed, 'trial')}.")
    for comparison, own in zip(comparisons, pairs, strict=True):
        lines += [f"{comparison.title}: {line}" for line in limits(comparison, own)]
    budgets = {Protocol.of(record.trial["protocol"]).budget for record in records}
    lines += [
        f"{100 * budget:.3g} % of the protocol's length was trained: accuracies at full length may rank differently."
        for budget in sorted(budgets - {1.0})
    ]
    lines += departures(records)
    if dirty := sum(bool(record.provenance.dirty) for record in records):
        lines.append(f"{plural(dirty, 'trial')} ran with changes that were not committed: no commit holds that code.")
    commits = {describe_commit(record) for record in records}
    if None in commits:
        lines.append("Some trials ran outside a git checkout; only the version is known.")
    if len(commits - {None}) > 1:
        lines.append(f"Trials ran at {len(commits - {None})} commits, which are listed below.")
    checksums: defaultdict[tuple[str, float], set[str]] = defaultdict(set)
    for record in records:
        key = record.trial["data"], completed(record.trial)["validation"]
        checksums[key].add(record.provenance.data.checksum)
    lines += [
        f"{name} is the name of {len(different)} different data sets here."
        for (name, _), different in checksums.items()
        if len(different) > 1
    ]
    lines += [
        f"{100 * fraction:.3g} % of a training set were used: numbers that were published of another part of it are "
        "not comparable."
        for fraction in sorted({float(record.trial["train_fraction"]) for record in records} - {1.0})
    ]
    if (machines := len({json.dumps(plain(record.environment), sort_keys=True) for record in records})) > 1:
        lines.append(f"Trials ran in {machines} environments: their times are not comparable.")
    if any(record.provenance.workers > 1 for record in records):
        lines.append("Trials ran beside others on one machine: their seconds are those of a busy machine.")
    return lines


def limits(comparison: Comparison, pairs: Sequence[Pair]) -> list[str]:
    """Whatever limits the conclusions from one comparison."""
    return [
        *limits_of_tests(comparison, pairs),
        *gaps(comparison),
        *unequal_training(comparison),
        *limits_of_training(comparison, pairs),
        *broken_networks(comparison),
        *limits_of_pairs(comparison, pairs),
    ]


def limits_of_tests(comparison: Comparison, pairs: Sequence[Pair]) -> Iterator[str]:
    """How large a difference has to be for so few seeds and so many tests."""
    if not comparison.trained:
        yield "no network was trained: accuracies are those of initial weights."
    if comparison.seeds < FEWEST:
        yield f"{plural(comparison.seeds, 'seed')}: no difference can be distinguished from chance."
    elif comparison.trained and not all(pair.untested or pair.by_ranks for pair in pairs):
        tested = sum(not pair.untested for pair in pairs)
        least = t_quantile(comparison.seeds - 1, LEVEL / tested) / math.sqrt(comparison.seeds)
        yield (
            f"{comparison.seeds} seeds and {plural(tested, 'pair')}: to be distinguished from chance by the t test, "
            f"the largest difference must be at least {least:.3g} times the standard deviation of the paired "
            "differences."
        )


def gaps(comparison: Comparison) -> Iterator[str]:
    """Trials that are missing, or differ from the requested ones."""
    direct = comparison.rows[comparison.rows.target == "direct"]
    cells = direct.astype({"achieved_sparsity": float, "parameters": float}).groupby(["method", "sparsity"], sort=False)
    means = cells[["achieved_sparsity", "parameters"]].mean()
    for (method, wanted), achieved, size in zip(means.index, means.achieved_sparsity, means.parameters, strict=True):
        if comparison.sparsity_of == "weights" and abs(achieved - wanted) > max(
            DENSITY_TOLERANCE * (1 - wanted), 1 / size
        ):  # whole connections are kept
            text = f"removed {achieved:.4g} of the weights: equal scores, or weights of one unit, go together."
            yield f"{method} at {wanted:.10g} {text}"
    every = itertools.product(comparison.methods, comparison.sparsities)
    if missing := [f"{method} at {s:.10g}" for method, s in every if (method, s) not in comparison.cells]:
        yield f"not run: {', '.join(missing)}."
    uneven = [
        f"{method} at {sparsity:.10g} ({len(cell.accuracies)})"
        for (method, sparsity), cell in comparison.cells.items()
        if cell.seeds < comparison.seeds
    ]
    if uneven:
        yield f"fewer than {comparison.seeds} seeds: {', '.join(uneven)}; pairs are over the seeds of both."
    if 0 < len(comparison.dense.accuracies) < comparison.seeds:
        yield f"the dense reference has {plural(len(comparison.dense.accuracies), 'seed')}."
    if parameters := sorted({name for names in comparison.rows.not_scored for name in names.split(", ") if name}):
        yield f"not scored, though the network may compute weights from them: {', '.join(parameters)}."
    if not comparison.dense.accuracies:
        why = "the dense reference failed" if comparison.dense.failed else "no dense reference"
        yield f"{why}: nothing says what pruning costs in accuracy."


def unequal_training(comparison: Comparison) -> Iterator[str]:
    """Methods that prune during or after training are compared at equal sparsity, and not at equal cost."""
    during = comparison.rows.method[outcomes.changed_during_training(comparison.rows)].unique()
    if len(during):
        yield f"masks change during training ({', '.join(during)}): equal sparsity does not mean equal training FLOPs."
    again = comparison.rows.method[outcomes.iterative(comparison.rows)].unique()
    if len(again):
        yield f"networks are trained again at each level ({', '.join(again)}): that takes more training FLOPs."


def limits_of_training(comparison: Comparison, pairs: Sequence[Pair]) -> Iterator[str]:
    """Networks that have not trained, or are at chance."""
    cells = {f"{method} at {s:.10g}": cell for (method, s), cell in comparison.cells.items()}
    cells = {DENSE: comparison.dense} | cells
    if untrained := {name: cell.untrained for name, cell in cells.items() if cell.untrained}:
        trials = f"{plural(sum(untrained.values()), 'trial')} ({', '.join(untrained)})"
        if comparison.label_noise:
            yield f"memorised nothing of the random labels: {trials}."
        else:
            left_out = [f"{m} at {s:.10g}" for m, s in comparison.cells if comparison.not_compared(m, s)]
            unbeaten = f"; nothing is said to beat {', '.join(left_out)}" if left_out else ""
            yield f"did not train: {trials}. What longer training would give is not known{unbeaten}."
    collapsed = [
        f"{name} ({cell.collapsed} of {len(cell.accuracies)})"
        for name, cell in cells.items()
        if cell.collapsed and (comparison.label_noise or not cell.at_chance)
    ]
    if collapsed and not comparison.random_labels:  # with random labels alone, all accuracies are at chance
        compared = [pair for pair in pairs if pair.untested != UNTRAINED]
        line = f"seeds at chance or disconnected: {', '.join(collapsed)}."
        if compared:
            line += f" There, {compared[0].needed} seeds or more can tell a difference"
            line += f" among {len(compared)} pairs" * (len(compared) > 1) + "."
        yield line


def broken_networks(comparison: Comparison) -> Iterator[str]:
    """Networks without a path from input to output, or with a layer without a connection on one."""
    if cut := sum(cell.disconnected for cell in comparison.cells.values()):
        yield f"{plural(cut, 'trial')} with no path from input to output; their accuracy is that of a constant."
    connected = comparison.rows[(comparison.rows.criterion != DENSE) & ~outcomes.disconnected(comparison.rows)]
    if dead := int(connected.dead_layers.map(bool).sum()):
        yield f"{plural(dead, 'trial')} with a dead layer."


def limits_of_pairs(comparison: Comparison, pairs: Sequence[Pair]) -> Iterator[str]:
    """Pairs that could not be tested, and different modes of batch norm."""
    if untested := sum(math.isnan(pair.p) for pair in pairs):
        yield f"{plural(untested, 'pair')} of criteria could not be tested."
    modes = comparison.rows.groupby("method", sort=False).batch_norm.first().dropna()
    if modes.nunique() > 1:
        listed = ", ".join(f"{method} {mode}" for method, mode in modes.items())
        yield f"batch norm while scoring is not in one mode: {listed}. `--bn train` or `--bn eval` sets one for all."
