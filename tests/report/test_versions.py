"""Of each criterion, a report shows the newest version."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pai_bench.cli.entry import main
from pai_bench.report.page import write_report
from pai_bench.report.versions import newest
from pai_bench.results import Record, Store
from tests.made import Choice
from tests.report.records import altered, record

pytestmark = pytest.mark.usefixtures("drawings")  # what figures show is tested elsewhere

OLD, NEW = "Mine@11111111", "Mine@0f0f0f0f"


def made(name: str | None, seed: int = 0, finished: str | None = None, sparsity: float = 0.9, **changes: Any) -> Record:
    found = record(name, sparsity if name else 0.0, seed, 0.5, **changes)
    return altered(found, provenance={"finished": finished})


def names(records: list[Record]) -> set[str]:
    return {one.trial["criterion"]["name"] for one in records if one.trial["criterion"]}


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00", {NEW}),
        ("2026-01-03T00:00:00+00:00", "2026-01-02T00:00:00+00:00", {OLD}),
        (None, "2026-01-02T00:00:00+00:00", {NEW}),
        (None, None, {OLD, NEW}),  # nothing says which is newer
    ],
)
def test_the_class_that_was_run_last(old: str | None, new: str | None, shown: set[str]) -> None:
    records = [made(None), *(made(OLD, seed, old, 0.98) for seed in (0, 1)), made(NEW, 0, new), made("snip")]
    found, left_out = newest(records)
    assert names(found) == shown | {"snip"}
    assert set(left_out) == {OLD, NEW} - shown
    assert any(one.trial["criterion"] is None for one in found)


def test_other_uses_of_a_criterion_are_not_versions() -> None:
    early, late = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
    records = [
        made(f"{OLD}:power=2", 0, early),
        made(NEW, 0, late),
        made(OLD, 0, early, trial={"variant": "shuffle"}),
        made(OLD, 0, early, trial={"model": "other"}),
        made("Other@22222222", 0, early),
    ]
    assert newest(records) == (records, [])


def test_a_lower_revision_is_older() -> None:
    low, high = (made("grasp", 0, trial={"criterion": Choice(name="grasp", revision=revision)}) for revision in (1, 2))
    iterative = made("grasp", 0, trial={"criterion": Choice(name="grasp", schedule="linear:steps=3")})
    found, left_out = newest([low, high, iterative])
    assert found == [high, iterative]
    assert left_out == ["grasp, revision 1"]


def test_a_version_is_named_with_its_variant() -> None:
    """The criterion alone may have the same revision, and is shown."""
    old, new = ({"variant": "reinit", "criterion": Choice(name="snap", revision=revision)} for revision in (1, 2))
    records = [made("snap"), made("snap", 0, trial=old), made("snap", 0, trial=new)]
    assert newest(records) == ([records[0], records[2]], ["snap + reinit, revision 1"])


def test_settings_in_another_order_are_the_same_use() -> None:
    low, high = (made("grasp", 0, trial={"criterion": Choice(name="grasp", revision=revision)}) for revision in (1, 2))
    low = dataclasses.replace(low, trial=dict(reversed([*low.trial.items()])))
    assert newest([low, high]) == ([high], ["grasp, revision 1"])


def test_a_report_says_what_it_leaves_out_and_shows_it_when_asked(tmp_path: Path) -> None:
    store = Store(tmp_path, create=True)
    for one in (made(None), made(OLD, 0, "2026-01-01T00:00:00+00:00"), made(NEW, 0, "2026-01-02T00:00:00+00:00")):
        store.write(one)
    for form, name in (("markdown", "r.md"), ("csv", "r.csv")):
        path = tmp_path / name
        assert main(["report", str(tmp_path), "-o", str(path), "--format", form]) == 0
        text = path.read_text()
        assert NEW in text
        line = f"{OLD} is not shown, since there is a newer version; `--all-versions` shows it."
        assert (line in text) == (form == "markdown")
        assert OLD not in text.replace(line, "")
        assert main(["report", str(tmp_path), "-o", str(path), "--format", form, "--all-versions"]) == 0
        assert OLD in path.read_text()
        assert line not in path.read_text()
    assert OLD not in write_report(store, tmp_path / "usual.md").read_text().replace(line, "")
