"""The text of a report of made-up records that have everything, as it was last agreed to, in ``page.md``.

A change that is meant: ``python -m tests.report.test_whole_page`` writes the file again.
"""

import tempfile
from pathlib import Path

import pytest

from pai_bench.report.figures import style
from pai_bench.report.page import write_report
from tests.report.records import record, stored
from tests.report.test_damage import benchmark, collapse, cost
from tests.report.test_pairs import full

PAGE = Path(__file__).with_name("page.md")


def whole_page() -> str:
    """The report, without its figures."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(style, "lay_out", lambda _figure: None)
        patch.setattr(style, "save", lambda _figure, _path: None)
        store = stored(f"{folder}/r", [*full(("net", "other", "third")), record("snip", 0.5, 7, None)])
        store.write(cost())
        store.write(collapse())
        store.write(benchmark())
        return write_report(store, Path(folder) / "report.md").read_text(encoding="utf-8")


def test_a_page_that_has_everything() -> None:
    assert whole_page() == PAGE.read_text(encoding="utf-8")


if __name__ == "__main__":
    PAGE.write_text(whole_page(), encoding="utf-8")
