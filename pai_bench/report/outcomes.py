"""Which trials did not train, and which are no better than guessing: of both, accuracies say little of a criterion."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pai_bench.report import plugin_facts

MARGIN = 0.02
"""Part of the way from chance to no loss, or to no error, below which nothing is learnt."""

Flags = NDArray[np.bool_]


def numbers(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A column of the results, NaN where it is null."""
    return pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=float)


def classes(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Number of classes of each row's data set; NaN where it is not known. Of old records the name says it best."""
    facts = {name: plugin_facts.data_set(name)[1] for name in rows.data.unique()}
    by_name = rows.data.map({name: of.classes for name, of in facts.items() if of}).to_numpy(dtype=float)
    found = np.where(np.isnan(by_name), numbers(rows, "classes"), by_name)
    return np.where(found > 1, found, np.nan)


def chance_losses(rows: pd.DataFrame) -> NDArray[np.float64]:
    """The loss of chance: the entropy of the training labels, or at most that, ln(classes), where it is not known."""
    stored = numbers(rows, "chance_loss")
    return np.where(np.isnan(stored), np.log(classes(rows)), stored) if np.isnan(stored).any() else stored


def chance_accuracies(rows: pd.DataFrame) -> NDArray[np.float64]:
    """The accuracy of chance: the share of the most frequent class, or at least that, where it is not known."""
    stored = numbers(rows, "chance_accuracy")
    return np.where(np.isnan(stored), 1 / classes(rows), stored) if np.isnan(stored).any() else stored


def untrained(rows: pd.DataFrame) -> Flags:
    """Whether the last training loss of a connected network is within `MARGIN` of chance, or worse than it.

    False where the loss, or that of chance, is not known.
    """
    loss, by_chance = numbers(rows, "train_loss"), chance_losses(rows)
    flags: Flags = (loss >= (1 - MARGIN) * by_chance) & (by_chance > 0) & ~disconnected(rows)
    return flags


def guessing(rows: pd.DataFrame) -> Flags:
    """Whether the test accuracy is within `MARGIN` of always giving the most frequent class, or worse."""
    share = chance_accuracies(rows)
    flags: Flags = numbers(rows, "test_accuracy") <= share + MARGIN * (1 - share)
    return flags


def disconnected(rows: pd.DataFrame) -> Flags:
    """Whether no path leads from the input to the output; False where that is not known."""
    flags: Flags = (rows.connected == False).to_numpy()  # noqa: E712
    return flags


def collapsed(rows: pd.DataFrame) -> Flags:
    """Whether a trial is disconnected, or at chance in its loss or accuracy."""
    return disconnected(rows) | untrained(rows) | guessing(rows)
