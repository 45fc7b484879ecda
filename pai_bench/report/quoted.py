"""Published numbers, as they are in the files of `pai_bench.published`."""

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

TRAINED_BY = {
    ("arXiv:1810.02340", "mnist", ""): "snip-mnist",
    ("arXiv:1810.02340", "mnist", "Adam 1e-3"): "snip-mnist-adam",
    ("arXiv:1810.02340", "cifar10", ""): "snip-cifar",
    ("arXiv:2006.05467", "cifar10", ""): "synflow-cifar",
    ("arXiv:2006.05467", "cifar100", ""): "synflow-cifar",
}
"""Source, data set and how the note of a number ends -> the protocol, as far as we know it."""

NETWORKS = {
    # its networks for inputs of 64x64 have three linear layers
    ("arXiv:2006.05467", "tiny-imagenet", f"vgg-{depth}-bn"): f"vgg-{depth}-bn-tiny"
    for depth in (11, 13, 16, 19)
} | {
    # for large images they begin with a 7x7 convolution of stride 2 and a pooling, ours of that name do not
    ("", "imagenet", f"resnet-{depth}"): f"resnet-{depth} (7x7 stem)"
    for depth in (18, 34, 50)
}
"""How a source begins, data set and network as it calls it -> our name, where ours of that name is another network."""


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
            (end, name)
            for (source, data, end), name in TRAINED_BY.items()
            if self.source.startswith(source) and self.data == data and self.note.endswith(end)
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
    found = []
    with files("pai_bench.published").joinpath(name).open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            value = float(row["value"])
            found.append(
                Published(
                    source=row["source"],
                    table=row["table"],
                    data=row["dataset"],
                    model=network(row["source"], row["dataset"], row["model"]),
                    criterion=row["criterion"],
                    sparsity=float(row["sparsity_percent"]) / 100,
                    accuracy=100 - value if row["metric"] == "test_error_percent" else value,
                    deviation=float(row["std"] or "nan"),
                    seeds=int(float(row["seeds"])) if row["seeds"] else None,
                    selection=row["selection"] or "not stated",
                    note=row["note"],
                )
            )
    return tuple(found)


def network(source: str, data: str, name: str) -> str:
    """Our name of a network of a source."""
    known = (ours for (start, *of), ours in NETWORKS.items() if source.startswith(start) and of == [data, name])
    return next(known, name)
