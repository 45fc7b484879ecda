"""How the numbers of a report were made, and what limits what may be concluded from them."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from pai_bench.experiment.settings import ScoringSettings, completed, words
from pai_bench.experiment.trial import DENSE
from pai_bench.report import plugin_facts, tables
from pai_bench.report.literature import SAME
from pai_bench.report.pairs import UNTRAINED, Pair
from pai_bench.report.statistics import FEWEST, LEVEL, t_quantile
from pai_bench.report.summary import Comparison, plural
from pai_bench.results import BenchmarkResult, Collapse, Cost, Record
from pai_bench.results.stored import plain
from pai_bench.training.protocol import Protocol

Measured = Record | Cost | Collapse | BenchmarkResult


def provenance(
    records: Sequence[Record],
    measured: Sequence[Cost],
    collapses: Sequence[Collapse],
    benchmarks: Sequence[BenchmarkResult] = (),
) -> str:
    """Commands, data, versions and machines, as the records hold them."""
    lines = []
    for title, values in (
        ("Timing command", [describe_command(cost) for cost in measured]),
        ("Timing environment", [describe_environment(cost) for cost in measured]),
        ("Timing commit", [describe_commit(cost) for cost in measured]),
        ("Collapse command", [describe_command(one) for one in collapses]),
        ("Collapse environment", [describe_environment(one) for one in collapses]),
        ("Collapse commit", [describe_commit(one) for one in collapses]),
        ("Benchmark command", [describe_command(one) for one in benchmarks]),
        ("Benchmark environment", [describe_environment(one) for one in benchmarks]),
        ("Benchmark commit", [describe_commit(one) for one in benchmarks]),
        ("Command", [describe_command(record) for record in records]),
        ("Data", [describe_data(record) for record in records]),
        ("Criterion", [describe_criterion(record) for record in records]),
        ("Company", [describe_company(record) for record in records]),
        ("Environment", [describe_environment(record) for record in records]),
        ("Commit", [describe_commit(record) for record in records]),
    ):
        for value, count in sorted(Counter(v for v in values if v).items()):
            unit = "row" if title.startswith(("Timing", "Collapse", "Benchmark")) else "trial"
            shown = tables.code(value) if title.lower().endswith("command") else tables.escaped(value)
            lines.append(f"* {title}: {shown} ({plural(count, unit)})")
    return "\n".join(lines)


def describe_command(record: Measured) -> str | None:
    """The command that made the record."""
    return record.provenance.command or None


def describe_data(record: Record) -> str:
    """Data set, sizes and checksum."""
    data = record.provenance.data
    return f"{data.label}, {data.train:,} training and {data.test:,} test examples, checksum {data.checksum}"


SAID = {"scope", "score_batch", "score_batches", "score_sampling"}
"""Settings that are said of every criterion."""


def describe_criterion(record: Record) -> str | None:
    """A criterion with all its options, schedule and score batch."""
    criterion = record.trial["criterion"]
    if criterion is None:
        return None
    options = ", ".join(f"{key} {json.dumps(value)}" for key, value in criterion["options"])
    trial = completed(record.trial)
    batch = f"{trial['score_batch']} {trial['score_sampling']} examples"
    if (batches := trial["score_batches"]) > 1:
        batch = f"{batches} x {batch}"
    variant = f", {trial['variant']}" if trial["variant"] != "none" else ""
    for key in words(ScoringSettings):
        if key in record.trial and key not in SAID:
            variant += f", {key.replace('_', ' ')} {trial[key]}"
    if trial["traced"]:
        variant += f", also {', '.join(trial['traced'])}"
    kept = [place for place in ("first", "last") if trial[f"keep_{place}"]]
    variant += f", {' and '.join(kept)} layer kept whole" if kept else ""
    scope = f"{criterion['schedule']}, {trial['scope']}{variant}"
    return f"{criterion['name']}: {scope}, score batch {batch}" + (f"; {options}" if options else "")


def describe_environment(record: Measured) -> str:
    """Versions, processor, threads and device."""
    environment = record.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    machine = f"{environment.processor}, {environment.threads} threads, {environment.system}"
    device = ", ".join(filter(None, [environment.device, environment.kernels]))
    return f"{device}; {machine}; {versions}"


def describe_company(record: Record) -> str | None:
    """What ran beside a trial, which its times depend on."""
    workers, lanes = record.provenance.workers, record.provenance.lanes
    parts = [f"one of {workers} worker processes"] if workers > 1 else []
    side_by_side = ", as branches" if record.provenance.together == "branches" else ""
    parts += [f"trained in one program with {plural(lanes - 1, 'other')}{side_by_side}"] if lanes > 1 else []
    parts += ["compiled"] if record.provenance.compiled else []
    return ", ".join(parts) or None


def describe_commit(record: Measured) -> str | None:
    """The commit that made the record, if it was made from a checkout."""
    if not (commit := record.provenance.commit):
        return None
    return f"{commit}, with changes that were not committed" if record.provenance.dirty else commit


def departures(records: Sequence[Record]) -> list[str]:
    """What was done otherwise than by the authors' code, criterion by criterion."""
    missing: Counter[str] = Counter()
    trials: Counter[str] = Counter()
    used = [(record.trial, record.trial["criterion"]) for record in records if record.trial["criterion"] is not None]
    facts = plugin_facts.criteria(criterion["name"] for _, criterion in used)
    for trial, criterion in used:
        given = dict(trial) | dict(criterion["options"])
        for choice in facts[plugin_facts.criterion_of(criterion["name"])].authors_choices:
            line = f"{criterion['name']}: its authors' code {choice.text}"
            trials[line] += 1
            missing[line] += not choice.is_made(given.get(choice.option))
    return [
        f"{line}; here it does not{'' if count == trials[line] else f', in {count} of {trials[line]} trials'}."
        for line, count in sorted(missing.items())
        if count
    ]


def caveats(comparisons: Sequence[Comparison], records: Sequence[Record], pairs: Sequence[Sequence[Pair]]) -> list[str]:
    """Whatever limits what may be concluded: failures, gaps, few seeds, cut networks, short training, other modes."""
    lines = []
    status = Counter(record.status for record in records)
    if status["failed"]:
        lines.append(f"Failed, in no mean, and listed above: {plural(status['failed'], 'trial')}.")
    for comparison, found in zip(comparisons, pairs, strict=True):
        lines += [f"{comparison.title}: {line}" for line in limits(comparison, found)]
    budgets = {Protocol.of(record.trial["protocol"]).budget for record in records}
    lines += [
        f"{100 * budget:.3g} % of the protocol's length was trained: accuracies at full length may order otherwise."
        for budget in sorted(budgets - {1.0})
    ]
    lines += departures(records)
    dirty = sum(bool(record.provenance.dirty) for record in records)
    if dirty:
        lines.append(f"{plural(dirty, 'trial')} ran with changes that were not committed: no commit holds that code.")
    commits = {describe_commit(record) for record in records}
    if None in commits:
        lines.append("Some trials ran from no commit that is known: the version alone says which code made them.")
    if len(commits - {None}) > 1:
        lines.append(f"Trials ran at {len(commits - {None})} commits, which are listed below.")
    sums: dict[tuple[str, float], set[str]] = {}
    for record in records:
        of_one = sums.setdefault((record.trial["data"], completed(record.trial)["validation"]), set())
        of_one.add(record.provenance.data.checksum)
    lines += [
        f"{name} is the name of {len(of)} different data sets here." for (name, _), of in sums.items() if len(of) > 1
    ]
    parts = sorted({float(record.trial["train_fraction"]) for record in records} - {1.0})
    lines += [
        f"{100 * part:.3g} % of a training set were used: numbers that were published of another part of it are not "
        "comparable."
        for part in parts
    ]
    machines = {json.dumps(plain(record.environment), sort_keys=True) for record in records}
    if len(machines) > 1:
        lines.append(f"Trials ran in {len(machines)} environments: their times are not comparable.")
    if any(record.provenance.workers > 1 for record in records):
        lines.append("Trials ran beside others on one machine: their seconds are those of a busy machine.")
    return lines


def limits(comparison: Comparison, found: Sequence[Pair]) -> list[str]:
    """What limits one comparison."""
    return [
        *limits_of_tests(comparison, found),
        *gaps(comparison),
        *limits_of_training(comparison, found),
        *broken_networks(comparison),
        *limits_of_pairs(comparison, found),
    ]


def limits_of_tests(comparison: Comparison, found: Sequence[Pair]) -> Iterator[str]:
    """What so many seeds can tell."""
    if not comparison.trained:
        yield ("no network was trained: accuracies are those of initial weights.")
    if comparison.seeds < FEWEST:
        yield (f"{plural(comparison.seeds, 'seed')}: no difference can be told from chance.")
    elif comparison.trained and not all(pair.untested or pair.by_ranks for pair in found):
        tested = sum(not pair.untested for pair in found)
        least = t_quantile(comparison.seeds - 1, LEVEL / tested) / math.sqrt(comparison.seeds)
        yield (
            f"{comparison.seeds} seeds and {plural(tested, 'pair')}: to be told from chance by the t test, the largest "
            f"difference must be at least {least:.3g} times the standard deviation of the paired differences."
        )


def gaps(comparison: Comparison) -> Iterator[str]:
    """What is missing, or is not quite what was asked for."""
    direct = comparison.rows[comparison.rows.target == "direct"]
    both = direct.astype({"achieved_sparsity": float, "parameters": float}).groupby(["method", "sparsity"], sort=False)
    means = both[["achieved_sparsity", "parameters"]].mean()
    for (method, wanted), found_at, size in zip(means.index, means.achieved_sparsity, means.parameters, strict=True):
        if abs(found_at - wanted) > max(SAME * (1 - wanted), 1 / size):  # whole connections are kept
            text = f"removed {found_at:.4g} of the weights: equal scores stay together there."
            yield (f"{method} at {wanted:.10g} {text}")
    missing = [
        f"{method} at {sparsity:.10g}"
        for method in comparison.methods
        for sparsity in comparison.sparsities
        if (method, sparsity) not in comparison.cells
    ]
    uneven = [
        f"{method} at {sparsity:.10g} ({len(cell.accuracies)})"
        for (method, sparsity), cell in comparison.cells.items()
        if len(cell.accuracies) + cell.failed < comparison.seeds
    ]
    if missing:
        yield (f"not run: {', '.join(missing)}.")
    if uneven:
        yield (f"fewer than {comparison.seeds} seeds: {', '.join(uneven)}; pairs are over the seeds of both.")
    if 0 < len(comparison.dense.accuracies) < comparison.seeds:
        yield (f"the dense reference has {plural(len(comparison.dense.accuracies), 'seed')}.")
    if named := sorted({name for names in comparison.rows.not_scored for name in names.split(", ") if name}):
        yield (f"not scored, though the network may compute weights from them: {', '.join(named)}.")
    if not comparison.dense.accuracies:
        why = "the dense reference failed" if comparison.dense.failed else "no dense reference"
        yield (f"{why}: nothing says what pruning costs in accuracy.")


def limits_of_training(comparison: Comparison, found: Sequence[Pair]) -> Iterator[str]:
    """What has not trained, or is at chance."""
    cells = {f"{method} at {s:.10g}": cell for (method, s), cell in comparison.cells.items()}
    cells = {DENSE: comparison.dense} | cells
    if still := {name: cell.untrained for name, cell in cells.items() if cell.untrained}:
        trials = f"{plural(sum(still.values()), 'trial')} ({', '.join(still)})"
        idle = ", ".join(
            f"{method} at {s:.10g}" for method, s in comparison.cells if comparison.not_compared(method, s)
        )
        unbeaten = f"; nothing is said to beat {idle}" if idle else ""
        yield (
            f"memorised nothing of the random labels: {trials}."
            if comparison.label_noise
            else f"did not train: {trials}. What longer training would give is not known{unbeaten}."
        )
    some = [
        f"{name} ({cell.collapsed} of {len(cell.accuracies)})"
        for name, cell in cells.items()
        if cell.collapsed and (comparison.label_noise or not cell.at_chance)
    ]
    if some and comparison.label_noise < 1:  # of random labels alone, accuracies are all at chance
        compared = [pair for pair in found if pair.untested != UNTRAINED]
        line = f"seeds at chance or disconnected: {', '.join(some)}."
        if compared:
            line += f" There, {compared[0].needed} seeds or more can tell a difference"
            line += f" among {len(compared)} pairs" * (len(compared) > 1) + "."
        yield (line)


def broken_networks(comparison: Comparison) -> Iterator[str]:
    """What has no path from input to output, or a layer without any connection on one."""
    if cut := sum(cell.disconnected for cell in comparison.cells.values()):
        yield (f"{plural(cut, 'trial')} with no path from input to output; their accuracy is that of a constant.")
    alive = comparison.rows[(comparison.rows.criterion != DENSE) & (comparison.rows.connected != False)]  # noqa: E712
    if dead := int(alive.dead_layers.map(bool).sum()):
        yield (f"{plural(dead, 'trial')} with a dead layer.")


def limits_of_pairs(comparison: Comparison, found: Sequence[Pair]) -> Iterator[str]:
    """What cannot be compared."""
    if untested := sum(math.isnan(pair.p) for pair in found):
        yield (f"{plural(untested, 'pair')} of criteria could not be tested.")
    modes = comparison.rows.groupby("method", sort=False).batch_norm.first().dropna()
    if modes.nunique() > 1:
        listed = ", ".join(f"{method} {mode}" for method, mode in modes.items())
        yield (f"batch norm while scoring is not in one mode: {listed}. `--bn train` or `--bn eval` sets one for all.")
