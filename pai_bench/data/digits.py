"""``digits``: the handwritten digits inside scikit-learn, the data set that is always there."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from pai_bench.data.dataset import DataSet, Split
from pai_bench.data.facts import Facts
from pai_bench.support.registry import data_set

TEST_SHARE = 0.25


@data_set(
    "digits",
    source="UCI Optical Recognition of Handwritten Digits, shipped with scikit-learn",
    facts=Facts((1, 28, 28), 10, 1_347, 450),
)
def digits(data_dir: Path | None = None) -> DataSet:
    """1,797 grey images of 10 classes, shown at 28x28: each of the 8x8 pixels three times as wide, in a border of 2.

    A quarter of each class, always the same, is the test set (1,347 and 450 images).
    """
    pixels, labels = raw_digits()
    levels = np.minimum(pixels * 16, 255).astype(np.uint8)  # 0..16 -> 0..255
    images = np.pad(np.kron(levels, np.ones((1, 3, 3), np.uint8)), ((0, 0), (2, 2), (2, 2)))
    test = np.zeros(len(images), bool)
    order = np.random.RandomState(0).permutation(len(images))  # RandomState's streams are frozen by numpy
    for label in range(10):
        members = order[labels[order] == label]
        test[members[: round(TEST_SHARE * len(members))]] = True
    train_split, test_split = (
        Split(torch.from_numpy(images[chosen][:, None]), torch.from_numpy(labels[chosen])) for chosen in (~test, test)
    )
    return DataSet("digits", train_split, test_split, num_classes=10, label="digits (scikit-learn, 28x28)")


def raw_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 8, 8) from 0 to 16, and classes (N,), as `sklearn.datasets.load_digits` gives them.

    Read from scikit-learn's file, since importing scikit-learn takes longer than training on this data set.
    """
    spec = find_spec("sklearn")
    path = Path(str(spec and spec.origin)).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        table = np.loadtxt(path, delimiter=",", dtype=np.int64)
        return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    from sklearn.datasets import load_digits

    raw = load_digits()
    return raw.images.astype(np.int64), raw.target.astype(np.int64)
