"""Results that are stored already: they are written again as they were, and older forms are read as what they mean."""

import json
from pathlib import Path
from typing import Any

import pytest

from pai_bench.results import BenchmarkResult, Collapse, Cost, Record, Store
from pai_bench.results.stored import Stored
from tests.report.records import fields_of

HERE = Path(__file__).parent
FOLDERS: dict[str, type[Stored]] = {
    "trials": Record,
    "costs": Cost,
    "collapse": Collapse,
    "benchmarks": BenchmarkResult,
}
FILES = sorted((HERE / "stored").rglob("*.json"))
REPORTS = sorted((HERE.parent / "reports").glob("*/records.jsonl.xz"))
PLAIN = {"workers": 1, "lanes": 1, "compiled": False}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_stored_result_is_written_again_byte_for_byte(path: Path) -> None:
    """Trials that were done, failed and disconnected, a dense one, a cost on a GPU, a search, and a benchmark."""
    text = path.read_text(encoding="utf-8")
    found = FOLDERS[path.parent.name].from_json(text)
    assert found.to_json() == text
    found.check_name(path.stem)


def test_the_stored_results_are_of_every_kind() -> None:
    store = Store(HERE / "stored")
    assert sorted((r.status, r.trial["criterion"] is None, r.pruning.mask is None) for r in store) == [
        ("disconnected", False, False),
        ("done", False, False),
        ("done", True, True),
        ("failed", False, True),
    ]
    assert [
        len(found) for found in (store.read_all(Cost), store.read_all(Collapse), store.read_all(BenchmarkResult))
    ] == [1] * 3


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.parent.name)
def test_records_of_earlier_versions_hold_what_they_held(path: Path) -> None:
    store = Store(path)
    results = [*store, *store.read_all(Cost), *store.read_all(Collapse)]
    before = {file.stem: fields_of(file.read_text()) for folder in store.folders for file in folder.glob("*.json")}
    assert len(results) == len(before)
    assert not store.left_out
    for one in results:
        was, now = before[one.identity], fields_of(one.to_json())
        assert {key: now[key] for key in was} == was
        assert not any(now[key] for key in now.keys() - was.keys())  # what came later is not known


def older(name: str, *keys: str) -> dict[str, Any]:
    """The content of the only file in a folder whose name holds `name`, as it was before it had some keys."""
    (path,) = [path for path in FILES if name in path.as_posix()]
    content = fields_of(path.read_text())
    for key in keys:
        *way, last = key.split(".")
        place = content
        for step in way:
            place = place[step]
        del place[last]
    return content


def test_a_record_of_before_trials_ran_side_by_side() -> None:
    content = older("tiny-snip", *(f"provenance.{key}" for key in PLAIN), "provenance.together", "provenance.finished")
    found = fields_of(Record.from_json(json.dumps(content)).to_json())
    assert {key: found["provenance"][key] for key in PLAIN} == PLAIN


def test_a_cost_of_before_other_precisions_and_layouts() -> None:
    found = Cost.from_json(json.dumps(older("costs", "precision", "memory_format")))
    assert (found.precision, found.memory_format) == ("fp32", "contiguous")


@pytest.mark.parametrize("provenance", [None, [], "text", 1])
def test_what_is_no_object_is_not_upgraded(provenance: object) -> None:
    content = older("tiny-snip") | {"provenance": provenance}
    with pytest.raises(ValueError, match="a field is missing or malformed"):
        Record.from_json(json.dumps(content))
