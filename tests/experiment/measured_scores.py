"""In which order scores are computed and measured, for tests to look at."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch

from pai_bench.scoring import Scorer
from pai_bench.support.timing import Measurement


def noted_scores(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *measurements: Measurement) -> list[Any]:
    """Notes of each score, and of where `module` begins and ends to measure, which gives these `measurements`."""
    notes: list[Any] = []
    given, score = iter(measurements), Scorer.score

    @contextmanager
    def measured(_device: torch.device, *, memory: bool | None = None) -> Iterator[Measurement]:
        notes.append(("begin", memory))
        yield next(given)
        notes.append("end")

    def noted(*arguments: Any) -> Any:
        notes.append("score")
        return score(*arguments)

    monkeypatch.setattr(module, "measured", measured)
    monkeypatch.setattr(Scorer, "score", noted)
    return notes
