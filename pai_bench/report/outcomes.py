"""What became of trials: which did not train, guess or are disconnected, and what smaller networks have left."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pai_bench.report import plugin_facts

MARGIN = 0.02
"""Share of the distance from chance to no loss, or to no error, within which a trial counts as at chance."""

Flags = NDArray[np.bool_]


def numbers(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A column of the results, NaN where it is null."""
    return pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=float)


def classes(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Number of classes of each row's data set; NaN where it is not known. Old records may hold a wrong number."""
    facts = {name: plugin_facts.data_set(name)[1] for name in rows.data.unique()}
    registered = rows.data.map({name: known.classes for name, known in facts.items() if known}).to_numpy(dtype=float)
    counts = np.where(np.isnan(registered), numbers(rows, "classes"), registered)
    return np.where(counts > 1, counts, np.nan)


def chance_losses(rows: pd.DataFrame) -> NDArray[np.float64]:
    """The loss of chance: the entropy of the training labels; ln(classes), its upper bound, where it is not stored."""
    stored = numbers(rows, "chance_loss")
    return np.where(np.isnan(stored), np.log(classes(rows)), stored) if np.isnan(stored).any() else stored


def chance_accuracies(rows: pd.DataFrame) -> NDArray[np.float64]:
    """The accuracy of chance: the share of the most frequent class; 1 / classes where it is not stored."""
    stored = numbers(rows, "chance_accuracy")
    return np.where(np.isnan(stored), 1 / classes(rows), stored) if np.isnan(stored).any() else stored


def untrained(rows: pd.DataFrame) -> Flags:
    """Whether a network is connected and its last training loss at chance: loss >= (1 - `MARGIN`) chance loss.

    False where either loss is not known.
    """
    chance = chance_losses(rows)
    flags: Flags = (numbers(rows, "train_loss") >= (1 - MARGIN) * chance) & (chance > 0) & ~disconnected(rows)
    return flags


def guessing(rows: pd.DataFrame) -> Flags:
    """Whether the test accuracy is at chance: accuracy <= c + `MARGIN` (1 - c), c the share of the largest class."""
    chance = chance_accuracies(rows)
    flags: Flags = numbers(rows, "test_accuracy") <= chance + MARGIN * (1 - chance)
    return flags


def disconnected(rows: pd.DataFrame) -> Flags:
    """Whether no path leads from the input to the output; False where that is not known."""
    flags: Flags = (rows.connected == False).to_numpy()  # noqa: E712
    return flags


def smaller(rows: pd.DataFrame) -> Flags:
    """Whether a network was made smaller, since its criterion is structured."""
    return rows.node_sparsity.notna().to_numpy()


def left_of_smaller(rows: pd.DataFrame, combined: Callable[[str], bool]) -> pd.DataFrame:
    """The shares of ``nodes``, ``weights`` and ``FLOPs`` that smaller networks, or dense ones, have of the dense one's.

    What earlier versions stored of criteria of single weights and groups (`combined`) does not say it.
    """
    columns = ["node_sparsity", "weight_sparsity", "flop_sparsity", "parameters", "parameters_kept", "flops"]
    rows = rows.astype(dict.fromkeys([*columns, "flops_kept"], float))
    known = ~rows.method.map(combined).astype(bool)
    return pd.DataFrame(
        {
            "nodes": 1 - rows.node_sparsity.fillna(0),
            "weights": (1 - rows.weight_sparsity).fillna((rows.parameters_kept / rows.parameters).where(known)),
            "FLOPs": (1 - rows.flop_sparsity).fillna((rows.flops_kept / rows.flops).where(known)),
        }
    )


def changed_during_training(rows: pd.DataFrame) -> Flags:
    """Whether the mask was changed between steps of training."""
    flags: Flags = numbers(rows, "events") > 0
    return flags


def iterative(rows: pd.DataFrame) -> Flags:
    """Whether the network was pruned in levels, each after a training of its own."""
    flags: Flags = numbers(rows, "trainings") > 1
    return flags


def training_seconds(rows: pd.DataFrame) -> "pd.Series[float]":
    """Time of all steps; of iterative pruning, of those of all trainings."""
    return rows.total_train_seconds.astype(float).fillna(rows.train_seconds.astype(float))


def examples_seen(rows: pd.DataFrame) -> "pd.Series[float]":
    """How many examples a training has gone through, each time counted."""
    return rows.train_seconds.astype(float) * rows.images_per_second.astype(float)


def dense_training_flops(rows: pd.DataFrame) -> "pd.Series[float]":
    """Operations of a training of the dense network on as many examples: three forward passes of each."""
    return 3 * rows.flops.astype(float) * examples_seen(rows)


def training_flops(rows: pd.DataFrame, left: "pd.Series[float]") -> "pd.Series[float]":
    """Operations of all steps, as stored; of earlier records, the share `left` of those of a dense training.

    Earlier records are of masks that did not change during training. Of iterative pruning, all trainings are counted.
    """
    stored = rows.total_training_flops.astype(float).fillna(rows.training_flops.astype(float))
    return stored.fillna(left * dense_training_flops(rows))


def collapsed(rows: pd.DataFrame) -> Flags:
    """Whether a trial is disconnected, or at chance in its loss or accuracy."""
    return disconnected(rows) | untrained(rows) | guessing(rows)
