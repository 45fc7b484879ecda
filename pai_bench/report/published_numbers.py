"""Published accuracies, as the files of `pai_bench.published` hold them."""

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Published:
    """A published test accuracy, in per cent."""

    source: str
    table: str
    data: str
    model: str
    criterion: str
    sparsity: float
    accuracy: float
    deviation: float
    """Sample standard deviation over `seeds` runs, in points; NaN where it is not known."""
    seeds: int | None
    selection: str
    """How the epoch was chosen."""
    note: str

    @property
    def initialisations(self) -> tuple[str | None, str]:
        """Of the scored weights (None: those that were trained) and of the trained ones (``own``: the usual one)."""
        if match := re.match(r"score initialisation (\S+); training initialisation (\S+);", self.note):
            return match[1], match[2]
        return None, "own"

    @property
    def protocol(self) -> str | None:
        """The name of the protocol it was trained by, if that is known."""
        rows = [row for row in of_source("protocols.csv", self.source, self.data) if self.note.endswith(row["note"])]
        return max(rows, key=lambda row: (row["note"], row["protocol"]))["protocol"] if rows else None

    @property
    def best_on_test(self) -> bool:
        """Whether the epoch was chosen by the test set."""
        return self.selection.startswith("max")


def published() -> tuple[Published, ...]:
    """Numbers of criteria that pai-bench runs too."""
    return read("accuracy.csv")


def quoted() -> tuple[Published, ...]:
    """Numbers of other methods, as the sources quote them beside their own."""
    return read("rivals.csv")


@cache
def read(name: str) -> tuple[Published, ...]:
    """The numbers in a file."""
    return tuple(
        Published(
            source=row["source"],
            table=row["table"],
            data=row["dataset"],
            model=our_name("model", row),
            criterion=our_name("criterion", row),
            sparsity=float(row["sparsity_percent"]) / 100,
            accuracy=100 - float(row["value"]) if row["metric"] == "test_error_percent" else float(row["value"]),
            deviation=float(row["std"] or "nan"),
            seeds=int(float(row["seeds"])) if row["seeds"] else None,
            selection=row["selection"] or "not stated",
            note=row["note"],
        )
        for row in rows(name)
    )


@cache
def rows(name: str) -> list[dict[str, str]]:
    """The lines of a file, by column."""
    with files("pai_bench.published").joinpath(name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def of_source(name: str, source: str, data: str) -> list[dict[str, str]]:
    """The lines of a file about one source and data set."""
    return [row for row in rows(name) if source.startswith(row["source"]) and data == row["dataset"]]


NAMES = {"model": "networks.csv", "criterion": "criteria.csv"}
"""Column of the published numbers -> the file that says which of ours each name in it stands for."""


def our_name(column: str, published: dict[str, str]) -> str:
    """The name by which the network, or the criterion, of a published number is registered.

    Where a source gives one name to several, its note tells them apart.
    """
    name = published[column]
    for row in of_source(NAMES[column], published["source"], published["dataset"]):
        if row[column] == name and row.get("note", "") in published["note"]:
            return row["ours"]
    return name
