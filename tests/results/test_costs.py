"""Stored costs: of earlier versions, and damaged ones."""

import dataclasses
import json
from typing import Any

import pytest

from pai_bench.cli.entry import main
from pai_bench.results import Cost, Store
from pai_bench.support.identity import digest
from tests.report.records import cost


def test_a_cost_that_was_stored_without_seconds_on_the_device_is_read() -> None:
    old = {k: v for k, v in dataclasses.asdict(cost()).items() if not k.endswith("device_seconds")}
    assert Cost.from_json(json.dumps(old)) == cost()
    assert Cost.from_json(json.dumps(old)).identity == cost(device_seconds=0.1).identity
    for missing in ("peak_bytes", "seconds"):
        with pytest.raises(ValueError, match="missing or malformed"):
            Cost.from_json(json.dumps({k: v for k, v in old.items() if k != missing}))


def test_a_cost_of_an_earlier_version_is_read() -> None:
    store = Store("r", create=True)
    earlier = {k: v for k, v in dataclasses.asdict(cost()).items() if k not in ("precision", "memory_format")}
    (store.path / "costs").mkdir()
    (store.path / "costs" / f"{cost().identity}.json").write_text(json.dumps(earlier))
    assert store.read_all(Cost) == [cost()]


@pytest.mark.parametrize(
    "field", [{"environment": {}}, {"environment": None}, {"seconds": "a"}, {"seconds": -1.0}, {"floor_seconds": 0},
              {"step_seconds": 0}, {"provenance": []}, {"device_seconds": -1.0}, {"peak_bytes": "x"}, {"trial": {}}]
)  # fmt: skip
def test_a_damaged_cost_is_left_out(field: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    store = Store("r", create=True)
    store.write(cost())
    (store.path / "costs" / f"damaged-{digest(cost().settings)}.json").write_text(
        json.dumps(dataclasses.asdict(cost()) | field)
    )
    assert store.read_all(Cost) == [cost()]
    assert "/damaged-" in caplog.text
    assert "a field" in caplog.text
    assert main(["report", "r"]) == 0


def test_a_damaged_file_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    store = Store("r", create=True)
    store.write(cost())
    (store.path / "costs" / "damaged.json").write_text("{")
    assert store.read_all(Cost) == [cost()]
    assert "damaged.json cannot be read" in caplog.text
