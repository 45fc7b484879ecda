"""Published numbers, as they are in the files of `pai_bench.published`."""

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Published:
    """A published number, as accuracy in per cent."""

    source: str
    table: str
    data: str
    model: str
    criterion: str
    sparsity: float
    accuracy: float
    deviation: float
    """Sample standard deviation over `seeds` runs; NaN where it is not known."""
    seeds: int | None
    selection: str
    """How the epoch was chosen."""
    note: str

    @property
    def initialisations(self) -> tuple[str | None, str]:
        """Of the weights that were scored, None for those that were trained; and of these, ``own`` for the usual."""
        if found := re.match(r"score initialisation (\S+); training initialisation (\S+);", self.note):
            return found[1], found[2]
        return None, "own"

    @property
    def protocol(self) -> str | None:
        """The name of the protocol it was trained by, if we know it."""
        known = [
            (row["note"], row["protocol"])
            for row in rows("protocols.csv")
            if self.source.startswith(row["source"]) and self.data == row["dataset"] and self.note.endswith(row["note"])
        ]
        return max(known)[1] if known else None  # the one that says most of the note

    @property
    def best_on_test(self) -> bool:
        """Whether the epoch was chosen by the test set."""
        return self.selection.startswith("max")


def published() -> tuple[Published, ...]:
    """Numbers that may stand beside ours."""
    return read("accuracy.csv")


def rivals() -> tuple[Published, ...]:
    """Numbers of methods that sources quote beside their own, and that are not ours."""
    return read("rivals.csv")


@cache
def read(name: str) -> tuple[Published, ...]:
    """The numbers in a file."""
    return tuple(
        Published(
            source=row["source"],
            table=row["table"],
            data=row["dataset"],
            model=network(row["source"], row["dataset"], row["model"]),
            criterion=row["criterion"],
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


def network(source: str, data: str, name: str) -> str:
    """Our name of a network of a source."""
    for row in rows("networks.csv"):
        if source.startswith(row["source"]) and (data, name) == (row["dataset"], row["model"]):
            return row["ours"]
    return name
