"""Sweeps that tests run, a criterion that ends its process, and how two results are compared."""

from typing import Any

import pandas as pd

import pai_bench as pb

COLUMNS = ["test_accuracy", "test_loss", "achieved_sparsity", "status", "epochs"]


def named(**changes: Any) -> pb.Sweep:
    """A small sweep in which everything is a name."""
    keys: dict[str, Any] = {"criteria": ["snip", "random"], "models": ["lenet-300-100"], "data": ["digits"]}
    keys |= {"sparsities": [0.9], "seeds": 2, "epochs": 1, "device": "cpu", "lanes": 1}
    return pb.Sweep(**keys | changes)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """The same trials with the same results; another number of threads may sum in another order."""
    assert one.identity.tolist() == other.identity.tolist()
    pd.testing.assert_frame_equal(one[COLUMNS], other[COLUMNS], rtol=1e-3, atol=2e-3)


DIES = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
import pai_bench as pb

@dataclass(frozen=True)
class Dies(pb.Criterion):
    def score(self, model, batch):
        marks = len(list(Path('.').glob('mark*')))
        if marks < {times}:
            Path(f'mark{{marks}}').touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {{name: p.detach().abs() for name, p in pb.get_criterion('magnitude').score(model, batch).items()}}
"""
