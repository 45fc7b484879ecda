"""The part of a section about pruning during training: when masks are made and changed, and what the training costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pai_bench.experiment.trial import DENSE
from pai_bench.report import outcomes, tables
from pai_bench.report.figures.during_training import accuracy_by_cost, sparsity_by_epoch
from pai_bench.report.provenance import describe_concurrency
from pai_bench.report.smaller_networks import statements
from pai_bench.report.summary import Comparison, by_cell
from pai_bench.results import Record

CAPTION = (
    "When each method prunes, in completed steps of training, and what that training costs. Training FLOPs are those "
    "of all steps, a mean over seeds, and their share of what the dense network takes for as many examples: three "
    "forward passes of what is left of the network at each step, and for a step with dense gradients (`rigl`) two of "
    "what is left and one of the dense network. They count no product with a removed weight, though usual hardware "
    "computes it. Of iterative pruning (`imp`), all trainings are counted, that of the dense network too, and the "
    "share is of one dense training. Times are medians over seeds: all steps, all scoring before the first step (of "
    "iterative pruning, that of the last level), and all changes of the mask during training with their scoring."
)

DIFFERENT = (
    "Not all of these networks were trained in the same way (one at a time, several in one program, or in several "
    "processes), which times depend on."
)


def parts(
    comparison: Comparison, records: Mapping[str, Record], folder: Path, by_cost: Path, by_epoch: Path
) -> list[str]:
    """Paragraphs, a table and two figures, drawn below `folder`; none if all masks were made before training."""
    if not (outcomes.changed_during_training(comparison.rows) | outcomes.iterative(comparison.rows)).any():
        return []
    rows = costs(comparison)
    text = ["### Pruning during training", CAPTION, tables.markdown(table(comparison, rows, records))]
    if not comparison.random_labels:
        accuracy_by_cost(comparison, rows, folder / by_cost)
        text.append(tables.image(f"Test accuracy against the cost of training, {comparison.title}", by_cost))
    sparsity_by_epoch(comparison, records, folder / by_epoch)
    caption = f"Sparsity after each epoch, at sparsity {comparison.sparsities[-1]:.10g}"
    text.append(tables.image(f"{caption}, {comparison.title}", by_epoch))
    if len({describe_concurrency(records[identity]) for identity in rows.identity}) > 1:
        text.append(DIFFERENT)
    stated = list(statements(comparison, comparison.rows.method[~outcomes.smaller(comparison.rows)].unique()))
    return [*text, tables.bullets(stated)] if stated else text


def costs(comparison: Comparison) -> pd.DataFrame:
    """The trials that were trained, with operations of the whole training, their share of dense ones, and seconds."""
    rows = comparison.rows[comparison.rows.status == "done"].reset_index(drop=True)
    timed = ["score_seconds", "train_seconds", "event_seconds"]
    rows = rows.astype(dict.fromkeys(timed, float))
    left = outcomes.left_of_smaller(rows, comparison.facts.combined).FLOPs
    operations, dense = outcomes.training_flops(rows, left), outcomes.dense_training_flops(rows)
    levels = outcomes.iterative(rows)
    whole = dense[~levels].mean()  # where a level leaves out the first steps
    dense = dense.mask(levels & ~np.isnan(whole), whole)
    rows = rows.assign(all_seconds=outcomes.training_seconds(rows))
    seconds = rows[["score_seconds", "all_seconds", "event_seconds"]].sum(axis=1)
    return rows.assign(operations=operations, share=operations / dense, seconds=seconds)


def table(comparison: Comparison, rows: pd.DataFrame, records: Mapping[str, Record]) -> tables.Table:
    """A row for the dense network, and for each method at each sparsity: those that prune earlier come first."""
    body = []
    for method, sparsity, places in by_cell(rows):
        own = rows.iloc[places]
        by_seed = list(dict.fromkeys(records[identity].training.event_steps for identity in own.identity))
        levels = int(own.trainings.iloc[0]) - 1 if outcomes.iterative(own).any() else 0
        cells = {
            "criterion": method,
            "sparsity": f"{sparsity:.10g}",
            "prunes": "" if method == DENSE else when(own.iloc[0], by_seed, levels),
            "changes": str(len(by_seed[0]) or levels or ""),
            "training FLOPs": tables.written(own.operations.mean(), "{:.3g}".format),
            "of dense, %": tables.percent(own.share),
            "training": tables.duration(own.all_seconds.median()),
            "scoring": tables.duration(own.score_seconds.median()),
            "time of changes": tables.duration(own.event_seconds.median()),
            "test accuracy, %": str(comparison.cell(method, sparsity)),
        }
        begins_dense = pd.isna(own.score_seconds.iloc[0])
        body.append(((method != DENSE, sparsity, bool(levels), any(by_seed), begins_dense), cells))
    return tables.from_rows([cells for _, cells in sorted(body, key=lambda entry: entry[0])])


def when(row: pd.Series, by_seed: Sequence[tuple[int, ...]], levels: int) -> str:
    """When masks were made, and after how many steps they were changed; or that each level was trained.

    `by_seed` has the different steps that there are, `row` one of the trials.
    """
    if levels:
        return "after training" if levels == 1 else f"after each of {levels} trainings"
    if not (steps := sorted(step for of in by_seed for step in of)):
        return "before training"
    total = round(row.train_seconds * row.images_per_second / row.batch_size)
    span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    during = f"during training, after {span} of {total:,} steps"
    during += ", different by seed" if len(by_seed) > 1 else ""
    return during if pd.isna(row.score_seconds) else f"before and {during}"
