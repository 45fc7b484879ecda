"""A pytest plugin that records which functions each test calls, and its time, for `benchmarks.mutations`.

    pytest -p benchmarks.reached --reached FILE

Entries of other tests in FILE are kept, so a run of a few tests can be added.
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
"""By test: its ``seconds``, and the ``functions`` that it calls, as ``file:qualified name``. Only passing tests."""

FOLDERS = ("pai_bench", "criteria")
"""The folders whose functions are recorded."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option ``--reached``."""
    parser.addoption("--reached", metavar="FILE", required=True, help="file for the functions that each test calls")


def pytest_configure(config: pytest.Config) -> None:
    """Register the recorder."""
    config.pluginmanager.register(CallRecorder(Path(config.getoption("--reached")).absolute(), config.rootpath))


class CallRecorder:
    """Records each function that is called in this process while a test and its fixtures run."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, f"{root}/"
        self.folders = tuple(f"{root}/{folder}/" for folder in FOLDERS)
        self.reached: Reached = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Record calls while one test runs."""
        codes: set[CodeType] = set()

        def on_call(frame: FrameType, _event: str, _argument: object) -> None:
            codes.add(frame.f_code)

        self.reached[item.nodeid] = {"seconds": 0.0, "functions": []}
        threading.settrace(on_call)
        sys.settrace(on_call)
        try:
            result = yield
        finally:
            sys.settrace(None)
            threading.settrace(None)
        if item.nodeid in self.reached:
            ours = {code for code in codes if code.co_filename.startswith(self.folders)}
            names = (f"{code.co_filename.removeprefix(self.root)}:{code.co_qualname}" for code in ours)
            self.reached[item.nodeid]["functions"] = sorted(names)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the seconds, and remove tests that do not pass."""
        if report.nodeid in self.reached:
            self.reached[report.nodeid]["seconds"] += report.duration
            if not report.passed:
                del self.reached[report.nodeid]

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        self.path.write_text(json.dumps(self.reached), encoding="utf-8")
