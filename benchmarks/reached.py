"""Which functions each test reaches, and how long it takes: a plugin of pytest that `benchmarks.mutations` reads.

    pytest -p benchmarks.reached --reached FILE

What FILE holds of other tests is kept, so that a few tests can be added to it.
"""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

Reached = dict[str, dict[str, Any]]
"""By test: the ``seconds`` that it takes, and the ``functions``, as ``file:qualified name``. Passing tests only."""

FOLDERS = ("pai_bench", "criteria")
"""Where the functions are defined."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option ``--reached``."""
    parser.addoption("--reached", metavar="FILE", required=True, help="write which functions each test reaches")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to listen."""
    config.pluginmanager.register(Listener(Path(config.getoption("--reached")).absolute(), config.rootpath))


class Listener:
    """Notes each function that is called in this process while a test runs, its fixtures included."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, f"{root}/"
        self.folders = tuple(f"{root}/{folder}/" for folder in FOLDERS)
        self.found: Reached = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Listen while one test runs."""
        codes: set[CodeType] = set()

        def enter(frame: FrameType, _event: str, _argument: object) -> None:
            codes.add(frame.f_code)

        self.found[item.nodeid] = {"seconds": 0.0, "functions": []}
        threading.settrace(enter)
        sys.settrace(enter)
        try:
            result = yield
        finally:
            sys.settrace(None)
            threading.settrace(None)
        if item.nodeid in self.found:
            ours = {code for code in codes if code.co_filename.startswith(self.folders)}
            names = (f"{code.co_filename.removeprefix(self.root)}:{code.co_qualname}" for code in ours)
            self.found[item.nodeid]["functions"] = sorted(names)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the seconds, and forget what does not pass."""
        if report.nodeid in self.found:
            self.found[report.nodeid]["seconds"] += report.duration
            if not report.passed:
                del self.found[report.nodeid]

    def pytest_sessionfinish(self) -> None:
        """Write what was found."""
        self.path.write_text(json.dumps(self.found), encoding="utf-8")
