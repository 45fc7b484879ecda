"""The progress bars that the command line shows, for tests to look at."""

from types import ModuleType
from typing import Any

import pytest

from pai_bench.cli.console import progress_bar


def noted_bars(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[Any]:
    """The progress bars that `module` makes from now on."""
    bars: list[Any] = []

    def noted(*arguments: Any, **options: Any) -> Any:
        bars.append(progress_bar(*arguments, **options))
        return bars[-1]

    monkeypatch.setattr(module, "progress_bar", noted)
    return bars
