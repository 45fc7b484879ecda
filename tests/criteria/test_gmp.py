"""Gradual magnitude pruning: its times, its cubic schedule, and weights that return, by hand."""

from fractions import Fraction

import pytest
import torch
from pai_criteria.gmp import GMP
from torch import Tensor

import pai_bench as pb
from pai_bench.scoring import Change, Timeline
from tests.criteria.plain_moments import first_of, moment


def timeline(steps: int, density: float = 0.1, budget: float = 1.0) -> Timeline:
    return Timeline(steps, 10, budget, (density,))


@pytest.mark.parametrize(
    ("text", "steps", "budget", "expected"),
    [
        ("gmp", 1000, 1.0, [*range(200, 750, 10), 750]),  # D a hundredth of the steps
        ("gmp", 50, 1.0, [*range(10, 39)]),  # t1 = round(37.5), to the even number
        ("gmp:every=100", 1000, 1.0, [200, 300, 400, 500, 600, 700, 750]),  # t1 is always among them
        ("gmp:every=1000", 9766, 0.1, [1953, *range(2053, 7324, 100), 7324]),  # published steps, a tenth of them
        ("gmp:every=3", 20, 0.1, [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),  # one step at least
        ("gmp:begin=0:end=1:every=8", 20, 1.0, [0, 8, 16, 20]),
        ("gmp:begin=0.5:end=0.5", 20, 1.0, [10]),
    ],
)
def test_times(text: str, steps: int, budget: float, expected: list[int]) -> None:
    gmp = pb.get_criterion(text)
    assert isinstance(gmp, GMP)
    assert gmp.checked_moments(timeline(steps, budget=budget)) == expected


@pytest.mark.parametrize("sparsity", [0.3, 0.9, 0.98])
@pytest.mark.parametrize("first", [0.0, 0.25])
def test_counts_follow_the_cube(sparsity: float, first: float) -> None:
    """Of 1,009 weights, computed in fractions; at t1, exactly ``round((1 - s) * n)``."""
    gmp, line, n = GMP(first=first, begin=0.1, end=0.8, every=7), timeline(100, 1 - sparsity), 1009
    weights = {"w": torch.rand(n, generator=torch.Generator().manual_seed(0)) + 0.1}
    mask = {"w": torch.ones(n, dtype=torch.bool)}
    begin, end, last, start = 10, 80, Fraction(str(sparsity)), Fraction(str(first))
    for t in gmp.moments(line):
        change = gmp.change(moment(t, line, mask, weights))
        share = last + (start - last) * (1 - Fraction(t - begin, end - begin)) ** 3
        assert torch.equal(change.mask["w"], first_of(weights["w"], round((1 - share) * n), mask["w"]))
        assert change.weights is None
        mask = {"w": change.mask["w"]}
        weights["w"] = weights["w"] * mask["w"]
    assert int(mask["w"].sum()) == round((1 - sparsity) * n)


def test_removed_weights_return_with_their_values_when_others_fall_below() -> None:
    """Of six weights two stay; what is removed keeps the value that it had when it was removed."""
    gmp, line = GMP(begin=0.0, end=1.0, every=1, first=0.5, returns=True), timeline(3, 1 / 3)
    state, mask = dict[str, Tensor](), {"w": torch.ones(6, dtype=torch.bool)}

    def changed(step: int, *weights: float) -> Change:
        values = {"w": torch.tensor(weights)}
        assert not values["w"][~mask["w"]].any()
        change = gmp.change(moment(step, line, mask, values, state=state))
        mask.update(change.mask)
        return change

    changed(0, 6.0, -5.0, 4.0, 3.0, 2.0, -1.0)  # s = 1/2
    assert mask["w"].tolist() == [True, True, True, False, False, False]
    assert state["w"].tolist() == [0, 0, 0, 3, 2, -1]
    change = changed(1, 6.0, -5.0, 1.0, 0.0, 0.0, 0.0)  # s = 0.617: two stay of 2.3
    assert mask["w"].tolist() == [True, True, False, False, False, False]
    assert state["w"].tolist() == [0, 0, 1, 3, 2, -1]
    change = changed(2, 6.0, -2.5, 0.0, 0.0, 0.0, 0.0)  # 3 is larger than 2.5 now
    assert mask["w"].tolist() == [True, False, False, True, False, False]
    assert change.weights is not None
    assert change.weights["w"][3] == 3
    assert state["w"].tolist() == [0, -2.5, 1, 0, 2, -1]
    changed(3, 1.5, 0.0, 0.0, 0.5, 0.0, 0.0)
    assert mask["w"].tolist() == [False, True, False, False, True, False]
    assert state["w"].tolist() == [1.5, 0, 1, 0.5, 0, -1]


def test_what_does_not_fit_is_refused() -> None:
    line = timeline(100, 1 - 0.059)
    with pytest.raises(pb.UserError, match=r"gmp:first=0.06: first=0.06 is above the sparsity 0.059, which it rises"):
        GMP(first=0.06).moments(line)
    assert GMP(first=0.059).moments(line)  # although 1 - (1 - 0.059) is less than that
    with pytest.raises(pb.UserError, match="gmp has its own times and sparsities: it takes no schedule, as this of 3"):
        GMP().moments(Timeline(100, 10, 1.0, (0.5, 0.2, 0.1)))
    for text, error in {
        "gmp:first=1": "first=1 is outside [0, 1): it is a sparsity",
        "gmp:begin=0.8": "begin=0.8 and end=0.75 must be in order, in [0, 1]: they are shares",
        "gmp:every=-1": "every=-1 must be at least 0",
    }.items():
        with pytest.raises(pb.UserError) as raised:
            pb.get_criterion(text)
        assert error in str(raised.value)
