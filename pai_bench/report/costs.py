"""The part of a report about what scoring costs."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pai_bench.experiment.settings import completed
from pai_bench.report import tables
from pai_bench.report.figures import bar_charts
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

SMALLER_CAPTION = (
    "The networks without what these criteria remove, and the dense one, by turns: a *forward pass* in evaluation "
    "mode, in fp32, and a *training step* of the protocol on one batch, without drawing it. Median seconds after a "
    "warm-up, with the interquartile range and the number of measurements. What is left is in per cent: units of all "
    "layers but the last, weights, and operations of one forward pass."
)


def section(costs: Sequence[Cost], folder: Path, figure_for: Callable[[str], Path]) -> list[str]:
    """Tables and figures of `costs`, one of each for every network, data set and device; draws below `folder`.

    `figure_for` gives the path of a figure with a title.
    """
    parts = ["## What scoring costs", CAPTION]
    tabled = groups(costs)
    for heading, group in zip(headings(tabled), tabled, strict=True):
        figure = figure_for(f"cost {heading}")
        bar_charts.costs(heading, group, folder / figure)
        parts += [
            f"### {tables.escaped(heading)}",
            f"{tables.escaped(describe(group))}.",
            tables.markdown(table(group)),
            tables.image(f"{heading}: scoring and pruning in training steps", figure),
        ]
        if rows := smaller_table(group):
            parts += [SMALLER_CAPTION, tables.markdown(rows)]
    for group in on_several_machines(costs):
        heading = f"{network_on(group[0].trial)}, machine by machine"
        figure = figure_for(f"cost {heading}")
        bar_charts.costs_by_machine(heading, seconds_of(group), folder / figure)
        parts += [f"### {tables.escaped(heading)}", tables.markdown(machines_table(group))]
        parts.append(tables.image(heading, figure))
    return parts


def groups(costs: Sequence[Cost]) -> list[list[Cost]]:
    """A list for each table: costs of one network, data, score batch, sparsity, protocol and machine."""
    by_table = tables.grouped(
        sorted(costs, key=lambda cost: cost.seconds),
        lambda cost: str((title(cost), shared(cost), cost.environment, cost.precision, cost.memory_format)),
    )
    return sorted(by_table.values(), key=lambda group: (title(group[0]), describe(group)))


def shared(cost: Cost) -> dict[str, Any]:
    """The settings that the trials of a table share."""
    return {key: value for key, value in cost.trial.items() if key not in ("criterion", "scope", "variant")}


def on_several_machines(costs: Sequence[Cost]) -> list[list[Cost]]:
    """Costs of the same trials that were measured on more than one machine."""
    by_trial = tables.grouped(sorted(costs, key=lambda cost: cost.seconds), lambda cost: str(shared(cost)))
    return [group for _, group in sorted(by_trial.items()) if len({str(cost.environment) for cost in group}) > 1]


def machine_names(group: Sequence[Cost]) -> dict[str, str]:
    """Environment -> the machine's name, with versions and threads where names are equal."""
    environments = {str(cost.environment): cost for cost in group}
    counts = Counter(map(tables.machine, environments.values()))
    names = {}
    for key, cost in environments.items():
        name, environment = tables.machine(cost), cost.environment
        details = f" (torch {environment.versions.get('torch')}, {environment.threads} threads)"
        names[key] = name + details * (counts[name] > 1)
    return names


def seconds_of(group: Sequence[Cost]) -> dict[str, dict[str, float]]:
    """Machine -> criterion -> seconds of a score."""
    names = machine_names(group)
    seconds: dict[str, dict[str, float]] = {name: {} for name in sorted(names.values())}
    for cost in group:
        seconds[names[str(cost.environment)]][label(cost)] = cost.seconds
    return seconds


def machines_table(group: Sequence[Cost]) -> tables.Table:
    """One row for each criterion, and for each machine a score, its ratio to a bare pass, and a whole pruning."""
    names = machine_names(group)
    machines = sorted(names, key=lambda environment: names[environment])
    head = ["criterion"]
    head += [f"{what}, {names[key]}" for key in machines for what in ("score", "÷ bare pass", "pruning")]
    cells = {}
    for cost in reversed(group):
        ratio = tables.three_digits(cost.seconds / cost.floor_seconds)
        values = [tables.duration(cost.seconds), ratio, tables.duration(cost.prune_seconds)]
        cells[label(cost), str(cost.environment)] = values
    methods = dict.fromkeys(map(label, group))
    body = [[m, *(text for key in machines for text in cells.get((m, key), [""] * 3))] for m in methods]
    return [head, *body]


def title(cost: Cost) -> str:
    """Network, data and machine."""
    return f"{network_on(cost.trial)}, {tables.machine(cost)}"


def headings(tabled: Sequence[Sequence[Cost]]) -> list[str]:
    """The title of each table, with its sparsity where tables with the same title differ in that."""
    heads = [(title(group[0]), f", {sparsity(group[0])}") for group in tabled]
    several = Counter(name for name, _ in dict.fromkeys(heads))
    return [name + own * (several[name] > 1) for name, own in heads]


def sparsity(cost: Cost) -> str:
    """The sparsity of a trial, and of what, in words."""
    trial = completed(cost.trial)
    of_units = "" if trial["sparsity_of"] == "weights" else f"of {trial['sparsity_of']} "
    return f"sparsity {of_units}{trial['sparsity']:.10g}"


def describe(group: Sequence[Cost]) -> str:
    """The settings that all rows of a table share, and a training step in seconds."""
    first = group[0]
    trial = completed(first.trial)
    batches = f"{trial['score_batches']} x " if trial["score_batches"] > 1 else ""
    return (
        f"{first.weights:,} prunable weights, score batch {batches}{trial['score_batch']}, {sparsity(first)}, "
        f"{first.environment.threads} threads; scores and bare passes in {first.precision}, "
        f"weights {first.memory_format}; a training step on a batch of {trial['protocol']['batch_size']} takes "
        f"{tables.duration(step_seconds(group))}"
    )


def step_seconds(group: Sequence[Cost]) -> float:
    """The unit of a table: the median over its rows, which may have been measured at different times."""
    return median(cost.step_seconds for cost in group)


def label(cost: Cost) -> str:
    """The criterion, and its scope if that is not the usual one."""
    name: str = cost.trial["criterion"]["name"]
    return f"{name}, layerwise" if cost.trial["scope"] == "layerwise" else name


def table(group: Sequence[Cost]) -> tables.Table:
    """One row for each criterion: one score, and a whole pruning, in seconds, units and bytes."""
    device = ["on the device"] if any(cost.device_seconds is not None for cost in group) else []
    head = [
        *("criterion", "batch norm", "score", "± IQR (n)", *device, "÷ bare pass", "÷ step", "peak memory"),
        *("schedule", "pruning", "± IQR (n)", *device, "÷ step", "peak memory"),
    ]
    step = step_seconds(group)
    rows = []
    for mode, costs in tables.grouped(group, lambda cost: cost.batch_norm).items():
        seconds = median(cost.floor_seconds for cost in costs)
        peaks = [cost.floor_peak_bytes for cost in costs if cost.floor_peak_bytes is not None]
        known = [cost.floor_device_seconds for cost in costs if cost.floor_device_seconds is not None]
        on_device = [tables.duration(median(known) if known else None) for _ in device]
        row = ["(bare pass)", mode or "–", tables.duration(seconds), "", *on_device, "1"]
        row += [tables.three_digits(seconds / step), tables.size(max(peaks, default=None))]
        rows.append(row + [""] * (len(head) - len(row)))
    for cost in group:
        row = [label(cost), cost.batch_norm or "–", tables.duration(cost.seconds)]
        row += [spread(cost.iqr, cost.rounds, cost.cold), *(tables.duration(cost.device_seconds) for _ in device)]
        row += [tables.three_digits(cost.seconds / unit) for unit in (cost.floor_seconds, step)]
        row += [tables.size(cost.peak_bytes), cost.trial["criterion"]["schedule"], tables.duration(cost.prune_seconds)]
        row += [spread(cost.prune_iqr, cost.prune_rounds, cost.prune_cold)]
        row += [tables.duration(cost.prune_device_seconds) for _ in device]
        rows.append([*row, tables.three_digits(cost.prune_seconds / step), tables.size(cost.prune_peak_bytes)])
    return [head, *rows]


def smaller_table(group: Sequence[Cost]) -> tables.Table:
    """What smaller networks take beside the dense one, a row for each work; empty without structured criteria."""
    rows = []
    for cost in group:
        if (smaller := cost.smaller) is None:
            continue
        removed = smaller.node_sparsity, smaller.weight_sparsity, smaller.flop_sparsity
        left = [tables.three_digits(100 * (1 - share)) for share in removed]
        work = {
            "forward pass, 1 example": smaller.forward_1,
            "forward pass, 128 examples": smaller.forward_128,
            "training step": smaller.training_step,
        }
        for name, one in work.items():
            rows.append(
                {
                    "criterion": label(cost),
                    **dict(zip(("nodes left", "weights left", "FLOPs left"), left, strict=True)),
                    "work": name,
                    "dense": tables.duration(one.dense_seconds),
                    "± IQR": "" if one.rounds == 1 or one.cold else tables.duration(one.dense_iqr),
                    "smaller": tables.duration(one.seconds),
                    "± IQR (n)": spread(one.iqr, one.rounds, one.cold),
                    "dense ÷ smaller": tables.three_digits(one.dense_seconds / one.seconds),
                }
            )
    return tables.from_rows(rows) if rows else []


def spread(iqr: float, rounds: int, cold: bool) -> str:
    """The interquartile range, and the number of measurements."""
    if cold:
        return "once, cold"
    return f"{tables.duration(iqr)} ({rounds})" if rounds > 1 else "(1)"
