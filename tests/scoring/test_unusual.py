"""Networks that share, differentiate or recompute parts of themselves, and criteria that keep their scores."""

from typing import Any

import pytest
import torch
from pai_criteria.synflow import SynFlow
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import pai_bench as pb
from pai_bench.masks import select
from pai_bench.scoring import MaskedModel
from tests.graph.kinds import Net

ITERATIVE = "exponential:steps=3"


def batch(*shape: int, classes: int = 3) -> pb.Batch:
    generator = torch.Generator().manual_seed(0)
    return pb.Batch(torch.randn(6, *shape, generator=generator), torch.arange(6) % classes)


class Shared(nn.Embedding):
    def __deepcopy__(self, memo: Any) -> "Shared":
        return self


def test_a_part_that_copies_as_itself_is_refused_and_left_alone() -> None:
    table = Shared(10, 4)
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(8, 3))
    before = table.weight.clone()
    tokens = pb.Batch(torch.arange(12).reshape(6, 2) % 10, torch.arange(6) % 3)
    with pytest.raises(pb.UserError, match=r"snip: '0', a Shared, gives itself when it is copied"):
        pb.prune(model, tokens, "snip", 0.5)
    assert torch.equal(table.weight, before)
    assert table.weight.requires_grad


def forces(net: Any, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    energy = torch.tanh(net.norm(net.conv(x))).pow(2).sum()
    return net.head(torch.autograd.grad(energy, x, create_graph=True)[0].flatten(1))  # type: ignore[no-any-return]


def test_a_third_derivative_through_batch_norm_is_refused() -> None:
    torch.manual_seed(0)
    model = Net(forces, conv=nn.Conv1d(2, 3, 3), norm=nn.BatchNorm1d(3), head=nn.Linear(10, 3))
    with pytest.raises(pb.UserError, match=r"grasp: .*a third time; use bn=eval"):
        pb.get_criterion("grasp").score(model, batch(2, 5))
    assert all(score.isfinite().all() for score in pb.get_criterion("grasp:bn=eval").score(model, batch(2, 5)).values())


def block(net: Any, x: Tensor) -> Any:
    return net.norm(net.conv(x)).relu()


def plain(net: Any, x: Tensor) -> Any:
    return net.head(block(net, x).flatten(1))


def recomputed(net: Any, x: Tensor) -> Any:
    return net.head(checkpoint(block, net, x, use_reentrant=False).flatten(1))


def test_checkpoints_change_no_score() -> None:
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(2, 3, 3), "norm": nn.BatchNorm2d(3), "head": nn.Linear(12, 3)}
    for name in ("snip", "grasp:bn=eval", "grasp"):
        criterion = pb.get_criterion(name)
        expected, found = (criterion.score(Net(run, **layers).double(), doubled()) for run in (plain, recomputed))
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-9, atol=1e-12)


def doubled() -> pb.Batch:
    examples = batch(2, 4, 4)
    return pb.Batch(examples.inputs.double(), examples.targets)


def test_synflow_refuses_checkpoints() -> None:
    model = Net(recomputed, conv=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3), head=nn.Linear(12, 3))
    with pytest.raises(pb.UserError, match=r"synflow: the network computes activations again.*switch that off"):
        pb.get_criterion("synflow").score(model, batch(2, 4, 4))


def mapped(net: Any, x: Tensor) -> Any:
    return net.head(torch.func.vmap(lambda one: net.conv(one[None])[0])(x).flatten(1))


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_transforms_of_functions_change_no_score(name: str) -> None:
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(2, 3, 3), "head": nn.Linear(12, 3)}
    criterion = pb.get_criterion(name)
    expected = criterion.score(Net(lambda net, x: net.head(net.conv(x).flatten(1)), **layers), batch(2, 4, 4))
    found = criterion.score(Net(mapped, **layers), batch(2, 4, 4))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["iter-snip", "force", "synflow", "magnitude"])
def test_pruning_in_inference_mode(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    expected = pb.prune(model, batch(2, 4, 4), name, 0.8, schedule=ITERATIVE)
    with torch.inference_mode():
        found = pb.prune(model, batch(2, 4, 4), name, 0.8, schedule=ITERATIVE)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.register_buffer("adjacency", torch.eye(6).to_sparse())

    def forward(self, x: Tensor) -> Any:
        return torch.sparse.mm(self.adjacency, self.layer(x))


@pytest.mark.parametrize("name", ["snip", "iter-snip", "magnitude", "grasp"])
def test_a_sparse_buffer(name: str) -> None:
    assert pb.prune(Graph(), batch(5), name, 0.5, schedule=ITERATIVE).kept == 8


class Sparse(pb.Criterion):
    def score(self, model: nn.Module, batch: pb.Batch) -> pb.Scores:
        return {
            name: weight.detach().abs().to_sparse() for name, weight in model.named_parameters() if weight.dim() > 1
        }


def test_sparse_scores_are_refused() -> None:
    with pytest.raises(pb.UserError, match=r"Sparse scored 'weight' with a tensor of layout torch.sparse_coo"):
        Sparse().score(nn.Linear(5, 3), batch(5))


PAST: list[tuple[pb.Scores, pb.Scores]] = []


class Remembering(SynFlow):
    """Adds up the scores of all cuts, in memory that it has given out."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
        found = super().score(model, batch)
        PAST.append((found, {name: score.clone() for name, score in found.items()}))
        return found


def test_scores_that_a_criterion_keeps_are_not_overwritten() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(4, 3))
    PAST.clear()
    pb.prune(model, batch(2, 4, 4), Remembering(), 0.8, schedule=ITERATIVE)
    assert len(PAST) == 3
    for found, copy in PAST:
        assert all(torch.equal(found[name], copy[name]) for name in copy)


class Broken(pb.Criterion):
    def prepare(self, model: nn.Module) -> None:
        raise ValueError("no")

    def score(self, model: nn.Module, batch: pb.Batch) -> pb.Scores:
        raise AssertionError


def test_an_error_in_prepare_names_the_criterion_and_holds_no_memory() -> None:
    model = nn.Linear(5, 3)
    with pytest.raises(ValueError, match="no") as caught:
        pb.prune(model, batch(5), Broken(), 0.5)
    assert "while Broken scored Linear" in caught.value.__notes__[0]
    address = model.weight.data_ptr()
    model.weight.data.add_(1)
    assert model.weight.data_ptr() == address


@pytest.mark.parametrize("count", [10, 47, 100, 5000, 35_000])
def test_selection_refuses_nan_that_it_meets(count: int) -> None:
    scores = torch.zeros(40_000)
    scores[:20_000:2] = torch.nan
    scores[5:100:2] = 1
    with pytest.raises(pb.UserError, match="NaN"):
        select({"a": scores}, count)


def attended(net: Any, x: Tensor) -> Any:
    y = net.layer(x)
    return net.head(torch.nn.functional.scaled_dot_product_attention(y, y, y).mean(1))


def attended_again(net: Any, x: Tensor) -> Any:
    return checkpoint(attended, net, x, use_reentrant=False)


def test_attention_under_a_checkpoint_has_second_derivatives() -> None:
    torch.manual_seed(0)
    layers = {"layer": nn.Linear(4, 4), "head": nn.Linear(4, 3)}
    criterion = pb.get_criterion("grasp:temperature=1")
    expected, found = (criterion.score(Net(run, **layers), batch(5, 4)) for run in (attended, attended_again))
    for key in expected:
        torch.testing.assert_close(found[key], expected[key])


def test_a_loss_under_a_checkpoint_and_saving_elsewhere() -> None:
    torch.manual_seed(0)
    model, examples = nn.Linear(4, 3), batch(4)
    criterion = pb.get_criterion("grasp:temperature=1")
    expected = criterion.score(model, examples)

    def loss(output: Tensor, targets: Tensor) -> Any:
        return checkpoint(torch.nn.functional.cross_entropy, output, targets, use_reentrant=False)

    torch.testing.assert_close(criterion.score(model, pb.Batch(examples.inputs, examples.targets, loss=loss)), expected)
    with torch.autograd.graph.save_on_cpu():
        torch.testing.assert_close(criterion.score(model, examples), expected)
        with pytest.raises(pb.UserError, match=r"synflow: the network computes activations again.*score outside"):
            pb.get_criterion("synflow").score(model, examples)
