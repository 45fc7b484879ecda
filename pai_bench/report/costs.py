"""The part of a report about what scoring costs."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pai_bench.experiment.settings import completed
from pai_bench.report import tables
from pai_bench.report.figures.costs import bars, by_machine
from pai_bench.report.plugin_facts import network_on
from pai_bench.results import Cost

CAPTION = (
    "Median seconds after a warm-up, with the interquartile range and the number of measurements; what took too long "
    "was measured once, cold. A *score* is what a criterion takes under one mask; *pruning* is all of its cuts, with "
    "the selections. Beside them stand one bare pass, forward and backward, of the score batch in the same mode of "
    "batch norm, measured by turns with the score, and one training step of the protocol. Memory is the peak beyond "
    "what was held before, in the second round of the warm-up: on a CPU the resident memory of the process, on a GPU "
    "what torch has allocated. *On the device* is the part of the seconds between a GPU's first and last work."
)


def section(costs: list[Cost], folder: Path, figure_for: Callable[[str], Path]) -> list[str]:
    """Tables and figures of `costs`, one of each for every network, data set and device; draws below `folder`.

    `figure_for` gives the path of a figure with a title.
    """
    parts = ["## What scoring costs", CAPTION]
    for group in groups(costs):
        figure, heading = figure_for(f"cost {title(group[0])}"), tables.escaped(title(group[0]))
        bars(title(group[0]), group, folder / figure)
        parts += [
            f"### {heading}",
            f"{tables.escaped(describe(group))}.",
            tables.markdown(table(group)),
            f"![{heading}: scoring and pruning in training steps]({figure.as_posix()})",
        ]
    for group in on_several_machines(costs):
        heading = f"{network(group[0])}, machine by machine"
        figure = figure_for(f"cost {heading}")
        by_machine(heading, seconds_of(group), folder / figure)
        heading = tables.escaped(heading)
        parts += [f"### {heading}", tables.markdown(machines_table(group)), f"![{heading}]({figure.as_posix()})"]
    return parts


def groups(costs: list[Cost]) -> list[list[Cost]]:
    """Costs that can stand in one table: of one network, data, score batch, sparsity, protocol and machine."""
    found: defaultdict[str, list[Cost]] = defaultdict(list)
    for cost in sorted(costs, key=lambda cost: cost.seconds):
        found[str((title(cost), shared(cost), cost.environment, cost.precision, cost.memory_format))].append(cost)
    return sorted(found.values(), key=lambda group: (title(group[0]), describe(group)))


def shared(cost: Cost) -> dict[str, Any]:
    """What the trials of one table have in common."""
    return {key: value for key, value in cost.trial.items() if key not in ("criterion", "scope", "variant")}


def on_several_machines(costs: list[Cost]) -> list[list[Cost]]:
    """Costs of the same trials that were measured on more than one machine."""
    found: defaultdict[str, list[Cost]] = defaultdict(list)
    for cost in sorted(costs, key=lambda cost: cost.seconds):
        found[str(shared(cost))].append(cost)
    return [group for _, group in sorted(found.items()) if len({str(cost.environment) for cost in group}) > 1]


def machine_names(group: list[Cost]) -> dict[str, str]:
    """Environment -> the machine's name, with versions and threads where names are equal."""
    names = {str(cost.environment): machine(cost) for cost in group}
    longer = {
        str(cost.environment): f"torch {cost.environment.versions.get('torch')}, {cost.environment.threads} threads"
        for cost in group
    }
    counts = Counter(names.values())
    return {key: f"{name} ({longer[key]})" if counts[name] > 1 else name for key, name in names.items()}


def seconds_of(group: list[Cost]) -> dict[str, dict[str, float]]:
    """Machine -> criterion -> seconds of a score."""
    names = machine_names(group)
    found: dict[str, dict[str, float]] = {name: {} for name in sorted(names.values())}
    for cost in group:
        found[names[str(cost.environment)]][label(cost)] = cost.seconds
    return found


def machines_table(group: list[Cost]) -> tables.Table:
    """One row for each criterion, and for each machine a score, its ratio to a bare pass, and a whole pruning."""
    names = machine_names(group)
    columns = sorted(names, key=lambda key: names[key])
    head = ["criterion", *(f"{what}, {names[key]}" for key in columns for what in ("score", "÷ bare pass", "pruning"))]
    body = []
    for method in dict.fromkeys(map(label, group)):
        row = [method]
        for key in columns:
            cost = next((one for one in group if label(one) == method and str(one.environment) == key), None)
            row += [""] * 3 if cost is None else short(cost)
        body.append(row)
    return [head, *body]


def short(cost: Cost) -> list[str]:
    """A score, its ratio to a bare pass, and a whole pruning."""
    ratio = tables.three_digits(cost.seconds / cost.floor_seconds)
    return [tables.duration(cost.seconds), ratio, tables.duration(cost.prune_seconds)]


def title(cost: Cost) -> str:
    """Network, data and device in a few words."""
    return f"{network(cost)}, {machine(cost)}"


def network(cost: Cost) -> str:
    """The network and the data."""
    return network_on(cost.trial)


def machine(cost: Cost) -> str:
    """The device, or the processor where that is the device."""
    return cost.environment.device if cost.device != "cpu" else cost.environment.processor


def describe(group: list[Cost]) -> str:
    """What all rows of a table share, and its units in seconds."""
    first = group[0]
    trial = completed(first.trial)
    batches = trial["score_batches"]
    batch = f"{batches} x {trial['score_batch']}" if batches > 1 else f"{trial['score_batch']}"
    return (
        f"{first.weights:,} prunable weights, score batch {batch}, sparsity {trial['sparsity']:.10g}, "
        f"{first.environment.threads} threads; scores and bare passes in {first.precision}, weights "
        f"{first.memory_format}; a training step on a batch of {trial['protocol']['batch_size']} "
        f"takes {tables.duration(step_seconds(group))}"
    )


def step_seconds(group: list[Cost]) -> float:
    """The unit of a table: the median over its rows, which may have been measured at different times."""
    return statistics.median(cost.step_seconds for cost in group)


def label(cost: Cost) -> str:
    """The criterion, and how it was used if that is not its own way."""
    name: str = cost.trial["criterion"]["name"]
    return f"{name}, layerwise" if cost.trial["scope"] == "layerwise" else name


def table(group: list[Cost]) -> tables.Table:
    """One row for each criterion: one score, and a whole pruning, in seconds, units and bytes."""
    inside = on_device(group)
    head = [
        *("criterion", "batch norm", "score", "± IQR (n)", *inside, "÷ bare pass", "÷ step", "peak memory"),
        *("schedule", "pruning", "± IQR (n)", *inside, "÷ step", "peak memory"),
    ]
    step = step_seconds(group)
    body = [
        [
            label(cost),
            cost.batch_norm or "–",
            tables.duration(cost.seconds),
            spread(cost.iqr, cost.rounds, cost.cold),
            *(tables.duration(cost.device_seconds) for _ in inside),
            tables.three_digits(cost.seconds / cost.floor_seconds),
            tables.three_digits(cost.seconds / step),
            tables.size(cost.peak_bytes),
            cost.trial["criterion"]["schedule"],
            tables.duration(cost.prune_seconds),
            spread(cost.prune_iqr, cost.prune_rounds, cost.prune_cold),
            *(tables.duration(cost.prune_device_seconds) for _ in inside),
            tables.three_digits(cost.prune_seconds / step),
            tables.size(cost.prune_peak_bytes),
        ]
        for cost in group
    ]
    return [head, *floor_rows(group, step), *body]


def on_device(group: list[Cost]) -> list[str]:
    """The heading of a column for seconds on the device, if they are known."""
    return ["on the device"] if any(cost.device_seconds is not None for cost in group) else []


def spread(iqr: float, rounds: int, cold: bool) -> str:
    """The interquartile range, and of how many measurements."""
    if cold:
        return "once, cold"
    return f"{tables.duration(iqr)} ({rounds})" if rounds > 1 else "(1)"


def floor_rows(group: list[Cost], step: float) -> tables.Table:
    """What a bare forward and backward pass took in each mode of batch norm: the median of what all criteria met."""
    modes: defaultdict[str | None, list[Cost]] = defaultdict(list)
    for cost in group:
        modes[cost.batch_norm].append(cost)
    rows = []
    for mode, same in modes.items():
        seconds = statistics.median(cost.floor_seconds for cost in same)
        peak = max((cost.floor_peak_bytes for cost in same if cost.floor_peak_bytes is not None), default=None)
        units = tables.three_digits(seconds / step)
        known = [cost.floor_device_seconds for cost in same if cost.floor_device_seconds is not None]
        inside = [tables.duration(statistics.median(known) if known else None) for _ in on_device(group)]
        name = ["(bare pass)", mode or "–", tables.duration(seconds), "", *inside, "1", units, tables.size(peak)]
        rows.append([*name, *[""] * (5 + len(inside))])
    return rows
