"""Iterative criteria and quotas against references that share nothing with the code: numpy, sorting, bisection.

The network is softmax regression, whose gradient is known in closed form: dL/dW = (p - y) x^T / N.
"""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.experiment.resolve import resolve
from pai_bench.scoring import prunable_parameters
from pai_bench.scoring.criterion import score_masked

Array = npt.NDArray[np.float64]


def example() -> tuple[nn.Linear, pb.Batch]:
    torch.manual_seed(3)
    model = nn.Linear(5, 4).double()
    return model, pb.Batch(torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 4)


def loss_and_gradient(w: Array, b: Array, x: Array, y: npt.NDArray[np.int64]) -> tuple[float, Array]:
    logits = x @ w.T + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    p[np.arange(len(y)), y] -= 1
    return float(loss), p.T @ x / len(y)


def best(scores: Array, allowed: Array, count: int) -> Array:
    """A mask of the `count` highest of the allowed scores, by sorting."""
    order = sorted(np.flatnonzero(allowed), key=lambda i: (-scores.flat[i], i))
    mask = np.zeros(scores.shape)
    mask.flat[order[:count]] = 1
    return mask


def reference(densities: list[float], *, returns: bool, elasticity: bool) -> Array:
    """The mask of SNIP's formula on the masked network, cut by cut."""
    model, batch = example()
    w, b = (parameter.detach().numpy() for parameter in (model.weight, model.bias))
    mask = np.ones_like(w)
    for density in densities:
        loss, g = loss_and_gradient(w * mask, b, batch.inputs.numpy(), batch.targets.numpy())
        scores = np.abs(w * g / loss) if elasticity else np.abs(w * g)
        mask = best(scores, np.ones_like(w) if returns else mask, round(density * w.size))
    return mask


def ours(name: str, sparsity: float, schedule: str | None) -> list[list[bool]]:
    model, batch = example()
    found: list[list[bool]] = pb.prune(model, batch, name, sparsity, schedule=schedule)["weight"].tolist()
    return found


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9])
def test_two_steps_of_each(sparsity: float) -> None:
    d = 1 - sparsity
    two = [d**0.5, d]
    expected = reference(two, returns=False, elasticity=False)
    assert ours("iter-snip", sparsity, "exponential:steps=2") == (expected == 1).tolist()
    assert ours("snip-it", sparsity, "exponential:steps=2") == (expected == 1).tolist()  # L is common to all
    expected = reference(two, returns=True, elasticity=False)
    assert ours("force", sparsity, "exponential:steps=2:returns=true") == (expected == 1).tolist()


def test_published_schedules() -> None:
    sixty = [0.1 ** (t / 60) for t in range(1, 61)]
    assert ours("iter-snip", 0.9, None) == (reference(sixty, returns=False, elasticity=False) == 1).tolist()
    assert ours("force", 0.9, None) == (reference(sixty, returns=True, elasticity=False) == 1).tolist()
    seven = [1 - s for s in (0.5, 0.7, 0.8, 0.85, 0.875, 0.8875, 0.9)]
    assert ours("snip-it", 0.9, None) == (reference(seven, returns=False, elasticity=True) == 1).tolist()


def test_connections_return_in_force_and_in_nothing_else() -> None:
    """The example is one in which the second cut wants a connection again that the first has removed."""
    first, back = (reference(d, returns=True, elasticity=False) for d in ([0.2**0.5], [0.2**0.5, 0.2]))
    assert (back * (1 - first)).any()
    stay = np.array(ours("iter-snip", 0.8, "exponential:steps=2"))
    assert not (stay * (1 - first)).any()


class Shapes(nn.Module):
    """A convolution, a grouped one, a transposed one, and linear layers of very different size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.grouped = nn.Conv2d(8, 8, 5, groups=4)
        self.transposed = nn.ConvTranspose1d(8, 6, 3)
        self.wide = nn.Linear(100, 80)
        self.small = nn.Linear(3, 2)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.99])
@pytest.mark.parametrize("name", ["er", "erk"])
def test_layer_densities_are_those_of_a_bisection(name: str, sparsity: float) -> None:
    """density_l = min(1, e * ratio_l), with e such that the whole has the density asked for."""
    shapes = [tuple(p.shape) for p in prunable_parameters(Shapes()).values()]
    sizes = [int(np.prod(shape)) for shape in shapes]
    if name == "erk":
        ratios = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    else:
        ratios = [sum(shape[:2]) / (shape[0] * shape[1]) for shape in shapes]
    total = round((1 - sparsity) * sum(sizes))
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        reached = sum(min(1, middle * ratio) * size for ratio, size in zip(ratios, sizes, strict=True))
        low, high = (middle, high) if reached < total else (low, middle)
    mask = pb.prune(Shapes(), (torch.ones(1, 1), torch.tensor([0])), name, sparsity)
    assert mask.kept == total
    for kept, ratio, size in zip(mask.kept_per_layer().values(), ratios, sizes, strict=True):
        assert abs(kept - min(1, high * ratio) * size) < 1 + 1e-6


def test_positions_of_er_are_uniform() -> None:
    """Of 12 positions 3 are kept, each as often as another over many seeds."""
    model, counts = nn.Linear(4, 3, bias=False), torch.zeros(3, 4)
    for seed in range(800):
        counts += pb.prune(model, (torch.ones(1, 4), torch.tensor([0])), "er", 0.75, seed=seed)["weight"]
    assert (counts - 200).abs().max() < 5 * (800 * 0.25 * 0.75) ** 0.5


def grasp_scores(w: Array, b: Array, mask: Array, *, kept_only: bool) -> Array:
    """W (H g) of softmax regression at temperature 1, its Hessian written out: x_i x_j (p_a [a = b] - p_a p_b) / N."""
    _, batch = example()
    x, y = batch.inputs.numpy(), batch.targets.numpy()
    _, g = loss_and_gradient(w * mask, b, x, y)
    logits = x @ (w * mask).T + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    curvature = np.einsum("na,ab->nab", p, np.eye(len(b))) - np.einsum("na,nb->nab", p, p)
    hessian = np.einsum("nab,ni,nj->aibj", curvature, x, x) / len(y)
    return np.asarray(w * np.einsum("aibj,bj->ai", hessian, g * mask if kept_only else g))


@pytest.mark.parametrize("gradient", ["kept", "all"])
def test_grasp_of_several_cuts_counts_the_gradients_that_it_says(gradient: str) -> None:
    model, batch = example()
    w, b = (parameter.detach().numpy() for parameter in (model.weight, model.bias))
    name = f"grasp:temperature=1:gradient={gradient}"
    criterion, mask = pb.get_criterion(name), np.ones_like(w)
    for density in (0.7, 0.4, 0.2):
        scores = grasp_scores(w, b, mask, kept_only=gradient == "kept")
        found = score_masked(criterion, model, batch, {"weight": torch.from_numpy(mask > 0)})["weight"]
        np.testing.assert_allclose(np.where(mask > 0, found.numpy(), 0), scores * mask, rtol=1e-9, atol=1e-15)
        mask = best(scores, mask, round(density * w.size))
    other = grasp_scores(w, b, mask, kept_only=gradient != "kept")
    assert not np.allclose(other * mask, grasp_scores(w, b, mask, kept_only=gradient == "kept") * mask)


def test_results_of_one_cut_keep_their_identity() -> None:
    sweep = {"criteria": ["grasp"], "sparsities": [0.9], "seeds": 1}
    one, several = (resolve(pb.Sweep(**sweep, schedule=s)).trials[1] for s in (None, "exponential:steps=5"))  # type: ignore[arg-type]
    stored = [trial.configuration()["criterion"] for trial in (one, several)]
    assert [criterion["revision"] for criterion in stored] == [1, 2]
    assert "gradient" not in dict(stored[0]["options"])


def test_grasp_by_halves_is_its_own_code() -> None:
    """Sorted by class and cut in two: with batch norm in training mode, each half has statistics of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    batch = pb.Batch(torch.randn(8, 3, dtype=torch.float64), torch.tensor([1, 0, 0, 1, 1, 0, 1, 0]))
    found = pb.get_criterion("grasp:halves=true:temperature=1").score(model, batch)
    order = [1, 2, 5, 7, 0, 3, 4, 6]
    by_class = pb.Batch(batch.inputs[order], batch.targets[order], batches=2)
    expected = pb.get_criterion("grasp:temperature=1").score(model, by_class)
    whole = pb.get_criterion("grasp:temperature=1").score(model, batch)
    for name, score in expected.items():
        torch.testing.assert_close(found[name], score, rtol=1e-12, atol=0)
        assert not torch.allclose(whole[name], score, rtol=1e-3)


def test_what_halves_do_not_go_with() -> None:
    with pytest.raises(pb.UserError, match="halves sums gradients of parts of a batch"):
        pb.get_criterion("grasp:halves=true:accumulate=score")
    model, batch = example()
    with pytest.raises(pb.UserError, match="divides one score batch by class; it has 3"):
        pb.get_criterion("grasp:halves=true").score(model, pb.Batch(batch.inputs, batch.targets, batches=3))
    rows = pb.Batch(batch.inputs, torch.rand(9, 4), loss=nn.functional.mse_loss)
    with pytest.raises(pb.UserError, match="sorts by class, but the targets are no class indices"):
        pb.get_criterion("grasp:halves=true").score(model, rows)
