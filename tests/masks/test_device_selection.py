"""How scores on a device are joined to pieces, and where a bracket is looked for."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pai_bench.masks import device_selection
from pai_bench.masks.device_selection import _Bracket, _pieces


def test_small_tensors_in_a_row_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_selection, "SMALL", 4)
    monkeypatch.setattr(device_selection, "PIECE", 6)
    scores = [torch.zeros(size) for size in (1, 2, 3, 4, 1, 3, 3, 0, 9)]
    assert [piece.sizes for piece in _pieces(scores, None)] == [[1, 2, 3], [4], [1, 3], [3, 0], [9]]


def test_tensors_of_two_devices_are_not_joined() -> None:
    with FakeTensorMode():
        scores = [torch.zeros(2), torch.zeros(3), torch.zeros(4, device="cuda"), torch.zeros(1)]
        assert [piece.sizes for piece in _pieces(scores, None)] == [[2, 3], [4], [1]]


def test_a_bracket_moves_to_where_the_threshold_is() -> None:
    """Scores from 1000 down to 0, the threshold in the middle, or at the end."""
    sample = torch.arange(1001.0).flip(0)
    bracket = _Bracket(sample, 1001, 500.0)
    low, high = float(bracket.low), float(bracket.high)
    assert 0 < low < 500 < high < 1000
    bracket.rise()
    assert (float(bracket.low), float(bracket.high)) == (high, torch.inf)
    bracket = _Bracket(sample, 1001, 500.0)
    bracket.sink()
    assert (float(bracket.low), float(bracket.high)) == (-torch.inf, low)
    assert not bracket.unordered
    ends = _Bracket(sample, 1001, 0.0)
    assert 900 < float(ends.low) < 1000
    assert float(ends.high) == torch.inf
