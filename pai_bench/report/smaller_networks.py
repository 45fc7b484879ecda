"""The part of a section about smaller networks: what structured criteria leave, what that saves, and what is fixed."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pai_bench.experiment.settings import ScoringSettings, completed, names
from pai_bench.experiment.trial import DENSE
from pai_bench.report import metrics, outcomes, tables
from pai_bench.report.figures.smaller_networks import Latencies, accuracy_by_size
from pai_bench.report.plugin_facts import CriterionFacts, criterion_of
from pai_bench.report.provenance import describe_concurrency
from pai_bench.report.summary import Comparison, by_cell
from pai_bench.results import BesideDense, Cost, Record

UNSTRUCTURED = (
    "Masks of single weights make neither training nor inference faster on usual hardware, which multiplies zeros like "
    "other numbers: their FLOPs count operations, and say nothing of time."
)

CAPTION = (
    "Structured criteria remove whole units, and the networks that are trained are really smaller. What is left is in "
    "per cent, a mean over seeds: units of all layers but the last, weights, and FLOPs of one forward pass. Training "
    "FLOPs are 3 x these x the examples seen, without scoring. Times are medians over seeds."
)

AT_THE_END = (
    " Where units are removed during training, that is what is left at the end, and training FLOPs are those of all "
    "steps."
)

DIFFERENT = (
    "The dense networks and the smaller ones were not trained in the same way (one at a time, several in one program, "
    "or in several processes), which times depend on. `pai-bench time` compares them by turns."
)


def has_unstructured(comparison: Comparison) -> bool:
    """Whether some networks were trained under a mask of single weights."""
    rows = comparison.rows
    return bool(((rows.criterion != DENSE) & (rows.status != "failed") & ~outcomes.smaller(rows)).any())


def parts(
    comparison: Comparison, records: Mapping[str, Record], costs: Sequence[Cost], folder: Path, path: Path
) -> list[str]:
    """Paragraphs, a table and a figure, drawn to `path` below `folder`; none without structured criteria."""
    rows = comparison.rows[outcomes.smaller(comparison.rows)]
    if not len(rows):
        return []
    caption = CAPTION + AT_THE_END * bool(outcomes.changed_during_training(rows).any())
    text = ["### Smaller networks", caption, tables.markdown(table(comparison))]
    if comparison.trained and not comparison.random_labels:
        accuracy_by_size(comparison, latencies(comparison, records, costs), folder / path)
        caption = "Test accuracy against what is left of the network"
        text.append(tables.image(f"{caption}, {comparison.title}", path))
    own = [records[identity] for identity in rows.identity]
    dense = [records[identity] for identity in comparison.dense.identities]
    if dense and {*map(describe_concurrency, dense)} != {*map(describe_concurrency, own)}:
        text.append(DIFFERENT)
    lines = [*also_masked(comparison), *statements(comparison, rows.method.unique()), *fixed(own)]
    return [*text, tables.bullets(lines)] if lines else text


def table(comparison: Comparison) -> tables.Table:
    """A row for the dense network, and for each structured method at each sparsity."""
    rows = comparison.rows[comparison.rows.status != "failed"]
    rows = rows.astype(dict.fromkeys(["flops", "train_seconds", "images_per_second"], float)).reset_index(drop=True)
    dense = rows[rows.criterion == DENSE]
    left = outcomes.left_of_smaller(rows, comparison.facts.combined)
    rows = rows.assign(
        points=100 * metrics.below_dense(rows, dense), operations=outcomes.training_flops(rows, left.FLOPs)
    )
    # what is left at the end says nothing of a training that began with a larger network
    whole = outcomes.dense_training_flops(rows) / rows.operations
    fewer = (1 / left.FLOPs).mask(outcomes.changed_during_training(rows), whole)
    body = []
    for method, sparsity, places in by_cell(rows):
        own = rows.iloc[places]
        if method != DENSE and not outcomes.smaller(own).any():
            continue
        shares = left.iloc[places]
        seconds = own.train_seconds.median() or math.nan  # where nothing was trained, nothing is faster
        body.append(
            {
                "criterion": method,
                "sparsity": f"{sparsity:.10g}",
                "nodes left": tables.percent(shares.nodes),
                "weights left": tables.percent(shares.weights),
                "FLOPs left": tables.percent(shares.FLOPs),
                "below dense, points": tables.written(own["points"].mean(), "{:.2f}".format),
                "training": tables.duration(seconds),
                "images/s": tables.written(own.images_per_second.median(), "{:,.0f}".format),
                "times faster": tables.written(dense.train_seconds.median() / seconds, tables.three_digits),
                "training FLOPs": tables.written(own.operations.mean(), "{:.3g}".format),
                "times fewer": tables.written(fewer.iloc[places].mean(), tables.three_digits),
            }
        )
    return tables.from_rows(sorted(body, key=lambda row: row["criterion"] != DENSE))


def also_masked(comparison: Comparison) -> Iterator[str]:
    """The criteria that remove single weights of the smaller networks, too."""
    rows = comparison.rows
    for name in dict.fromkeys(map(criterion_of, comparison.methods)):
        if comparison.facts.combined(name):
            known = rows.weight_sparsity[rows.method.map(criterion_of) == name].notna().all()
            count = "are counted among the weights and FLOPs left" if known else "were not counted by earlier versions"
            what = f"they are zeros in the smaller network, which save no time, and {count}"
            yield f"{name} removes single weights, too: {what}."


def statements(comparison: Comparison, methods: Iterable[str]) -> Iterator[str]:
    """What the authors of the criteria of some methods state of such a network on the same data."""
    for name in dict.fromkeys(map(criterion_of, methods)):
        for one in comparison.facts.criteria.get(name, CriterionFacts()).authors_statements:
            if one.data == comparison.facts.data and one.model in comparison.model:
                yield f"{name}: its authors state {one.text}."


def fixed(records: Sequence[Record]) -> Iterator[str]:
    """The layers of which some or all units cannot be removed, in a line for each reason."""
    layers = {name: reason for record in records for name, reason in record.pruning.fixed.items()}
    for reason, own in tables.grouped(layers, layers.__getitem__).items():
        yield f"fixed, in part or whole: {', '.join(own)} ({reason})."


def latencies(comparison: Comparison, records: Mapping[str, Record], costs: Sequence[Cost]) -> Latencies:
    """What `pai-bench time` has measured of the same networks, on the machine that has measured most of them."""
    wanted = {scored(records[cell.identities[0]].trial): place for place, cell in comparison.cells.items()}
    found: dict[str, dict[tuple[str, float], BesideDense]] = {}
    for cost in costs:
        if cost.smaller is not None and (place := wanted.get(scored(cost.trial))) is not None:
            found.setdefault(machine_and_threads(cost), {})[place] = cost.smaller.forward_128
    if not found:
        return Latencies()
    machine = max(sorted(found), key=lambda name: len(found[name]))
    return Latencies(machine, found[machine])


def machine_and_threads(cost: Cost) -> str:
    """A machine and, on a CPU, the number of threads, which times depend on."""
    threads = f", {cost.environment.threads} threads" if cost.device == "cpu" else ""
    return f"{tables.machine(cost)}{threads}"


def scored(trial: Mapping[str, Any]) -> str:
    """The configuration of a trial without its seed and its training."""
    whole = completed(trial)
    keys = ("data", "model", "model_version", "criterion", "variant", "sparsity", *names(ScoringSettings))
    return json.dumps({key: whole[key] for key in keys if key in whole}, sort_keys=True)
