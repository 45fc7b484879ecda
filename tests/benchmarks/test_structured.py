"""The page on smaller networks."""

from pathlib import Path

import pytest

from benchmarks.structured import page, rows


@pytest.mark.slow
def test_rows_are_measured_once_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    measured = list(rows(["lenet-5-caffe"], path))
    assert list(rows(["lenet-5-caffe"], path)) == measured
    (row,) = measured
    assert (row.units, row.free, row.fixed) == (580, 570, {"the network's output": 10})
    assert row.difference <= row.limit == 1e-10
    assert "| lenet-5-caffe | 32 | 657,080 | 580 | 98.3% |" in page(measured)
