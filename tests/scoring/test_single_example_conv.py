"""Convolutions of a single example, beside torch's own."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.masks import cut, get_schedule
from pai_bench.pruning.pruner import scored
from pai_bench.scoring import Scorer, single_example_conv
from pai_bench.scoring.single_example_conv import convolve_single_example

OPTIONS: list[dict[str, Any]] = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": (1, 0)},
    {"stride": [2, 1], "padding": [0, 2], "dilation": (1, 2)},
    {"padding": (2,), "dilation": 2},
]


def tensors(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, 3, 6, 5), (4, 3, 3, 2), (4,))
    x, w, b = (torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes)
    return x, w, b


@pytest.mark.parametrize("options", OPTIONS)
def test_it_is_torchs_convolution_and_its_gradients(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_example_conv, "MAX_POSITIONS", 1000)
    x, w, b = tensors()
    expected = F.conv2d(x, w, b, **options)
    found = convolve_single_example(x, w, b, **options)
    assert found.grad_fn is not None
    assert "Conv" not in found.grad_fn.name()  # not by torch's kernel
    torch.testing.assert_close(found, expected)
    g = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, w, b), g), torch.autograd.grad(expected, (x, w, b), g), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        (torch.ones(2, 3, 4, 4), torch.ones(4, 3, 3, 3), {}),
        (torch.ones(1, 3, 4, 4, dtype=torch.float64), torch.ones(4, 3, 3, 3, dtype=torch.float64), {"padding": "same"}),
        (torch.ones(1, 4, 4, 4, dtype=torch.float64), torch.ones(4, 2, 3, 3, dtype=torch.float64), {"groups": 2}),
        (torch.ones(3, 4, 4, dtype=torch.float64), torch.ones(4, 3, 3, 3, dtype=torch.float64), {}),
        (torch.ones(1, 3, 19, 19, dtype=torch.float64), torch.ones(4, 3, 3, 3, dtype=torch.float64), {}),
    ],
)
def test_whatever_else_is_left_to_torch(x: Tensor, w: Tensor, options: dict[str, Any]) -> None:
    w.requires_grad_()
    found = convolve_single_example(x, w, **options)
    assert found.grad_fn is not None
    assert found.grad_fn.name() == "ConvolutionBackward0" or "Squeeze" in found.grad_fn.name()
    assert torch.equal(found, F.conv2d(x, w, **options))


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (1, 3, 2, 4)])
def test_what_does_not_fit_is_torchs_error(shape: tuple[int, ...]) -> None:
    w = torch.ones(4, 3, 3, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"expected input|[Kk]ernel size"):
        convolve_single_example(torch.ones(shape, dtype=torch.float64), w)


class Twice(nn.Module):
    """A convolution that its input passes through two times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.conv(self.conv(x)).flatten(1))
        return output


@pytest.mark.parametrize("returns", [False, True])
def test_one_scorer_and_one_for_each_cut_give_the_same_mask(returns: bool) -> None:
    torch.manual_seed(0)
    model, batch = Twice(), pb.Batch(torch.zeros(1, 3, 4, 4), torch.tensor([0]))
    schedule = f"exponential:steps=20:returns={str(returns).lower()}"
    found = pb.prune(model, batch, "synflow", 0.9, schedule=schedule)
    mask = None
    for density in get_schedule(schedule).densities(0.1):
        with Scorer(pb.get_criterion("synflow"), model) as scorer:
            scores = scored(scorer, batch, density, mask)
            mask = cut(scores, density, alive=None if returns else mask)
    assert mask is not None
    assert all(torch.equal(found[name], kept) for name, kept in mask.items())


def test_scores_that_are_kept_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model, batch = Twice(), pb.Batch(torch.zeros(1, 3, 4, 4), torch.tensor([0]))
    with Scorer(pb.get_criterion("synflow"), model) as scorer:
        first = scorer.score(batch)
        copies = {name: score.clone() for name, score in first.items()}
        scorer.score(batch, {name: torch.rand(score.shape) < 0.5 for name, score in first.items()})
    assert all(torch.equal(first[name], copies[name]) for name in copies)
