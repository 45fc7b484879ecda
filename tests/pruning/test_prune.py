"""The whole algorithm: exact counts, iteration by hand, return of removed connections."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pai_bench as pb
from pai_bench.masks import Exponential, OneShot, Schedule, select
from pai_bench.scoring import MaskedModel, prunable_parameters
from pai_bench.support.errors import CriterionError
from tests.made import UNSTRUCTURED

BATCH = pb.Batch(torch.ones(2, 3), torch.tensor([0, 1]))


def linear(values: list[float]) -> nn.Module:
    """A bias-free layer of two outputs with given weights."""
    model = nn.Linear(len(values) // 2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(values).reshape(2, -1))
    return model


@settings(max_examples=25)
@given(sparsity=st.floats(0, 1, exclude_max=True), name=st.sampled_from(UNSTRUCTURED))
def test_exactly_k_are_kept(sparsity: float, name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    for scope in ("global", "layerwise"):
        mask = pb.prune(model, BATCH, name, sparsity, schedule="exponential:steps=3", scope=scope)
        assert mask.kept == round((1 - sparsity) * 25)
        assert list(mask) == ["0.weight", "2.weight"]


def test_layerwise_keeps_the_same_share_everywhere(network: tuple[nn.Module, pb.Batch]) -> None:
    model, batch = network
    mask = pb.prune(model, batch, "snip", 0.5, scope="layerwise")
    for name, kept in mask.kept_per_layer().items():
        assert abs(kept - mask[name].numel() / 2) <= 1


def test_a_tuple_is_as_good_as_a_batch(network: tuple[nn.Module, pb.Batch]) -> None:
    model, batch = network
    one, two = pb.prune(model, batch, "snip"), pb.prune(model, (batch.inputs, batch.targets), "snip")
    assert all(torch.equal(one[name], two[name]) for name in one)


@dataclass(frozen=True)
class Shrinking(pb.Criterion):
    """score = |w| * (number of connections alive): records the masks that it is shown."""

    schedule: ClassVar[Schedule] = Exponential(steps=2)
    shown: ClassVar[list[int]] = []

    def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
        self.shown.append(int(sum(p.count_nonzero() for p in prunable_parameters(model).values())))
        return {name: w.abs() for name, w in model.weights().items()}


def test_iteration_scores_the_network_under_the_current_mask() -> None:
    model = linear([1, 2, 3, 4, 5, 6, 7, 8])
    Shrinking.shown.clear()
    pb.prune(model, pb.Batch(torch.ones(1, 4), torch.tensor([0])), Shrinking(), 0.75)
    assert Shrinking.shown == [8, 4]  # densities 0.5 and 0.25 of eight weights


def test_two_step_snip_by_hand() -> None:
    """Input 1 for all; logits are row sums. With p = softmax: dL/dw = p - onehot, the same for a whole row."""
    model = linear([4, -3, 2, 1, -1, 0.5])
    batch = pb.Batch(torch.ones(1, 3), torch.tensor([0]))
    # dense: rows give 3 and 0.5, gradients -q and +q: |w g| ranks by |w| = 4 3 2 | 1 1 0.5; four stay: 4 3 2 | 1
    first = pb.prune(model, batch, "snip", 1 / 3)
    assert first["weight"].tolist() == [[True, True, True], [True, False, False]]
    # the linear schedule to 2 of 6 by way of 4 of 6 keeps the two largest of those alive
    mask = pb.prune(model, batch, "snip", 2 / 3, schedule="linear:steps=2")
    assert mask["weight"].tolist() == [[True, True, False], [False, False, False]]


@dataclass(frozen=True)
class Second(pb.Criterion):
    """In the first cut the first weights are best, in the second cut the last are."""

    def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
        weight = model.prunable["weight"]
        rank = torch.arange(float(weight.numel())).reshape(weight.shape)
        return {"weight": rank if (weight == 0).any() else -rank}


def test_removed_connections_return_only_if_the_schedule_says_so() -> None:
    model = linear([1.0] * 8)
    batch = pb.Batch(torch.ones(1, 4), torch.tensor([0]))
    stay = pb.prune(model, batch, Second(), 0.75, schedule=Exponential(steps=2))
    back = pb.prune(model, batch, Second(), 0.75, schedule=Exponential(steps=2, returns=True))
    assert stay["weight"].flatten().nonzero().flatten().tolist() == [2, 3]
    assert back["weight"].flatten().nonzero().flatten().tolist() == [6, 7]


def test_gradients_are_given_at_removed_positions_too() -> None:
    """FORCE needs them: dL/dw at the masked network, where the weight is removed but its input is not zero."""
    seen: list[torch.Tensor] = []

    @dataclass(frozen=True)
    class Look(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            g = model.gradients(batch)
            seen.append(g["weight"])
            return {name: w.abs() for name, w in model.weights().items()}

    model = linear([1, 2, 3, 4, 5, 6])
    pb.prune(model, pb.Batch(torch.ones(1, 3), torch.tensor([0])), Look(), 0.5, schedule=Exponential(steps=2))
    assert seen[1].all()


def test_defaults_are_the_criterions_own() -> None:
    assert pb.get_criterion("snip").schedule == OneShot()
    assert str(pb.get_criterion("snip-it").schedule) == "halving:steps=5"
    assert str(pb.get_criterion("synflow").schedule) == "exponential:steps=100"
    assert pb.get_criterion("snip").bn == "eval"
    assert pb.get_criterion("grasp").bn == "train"


def test_all_scores_zero_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
    nn.init.zeros_(model.get_parameter("1.weight"))
    mask = pb.prune(model, BATCH, "magnitude", 0.3)
    assert "magnitude: all scores are zero in 1.weight" in caplog.text
    assert mask["1.weight"].flatten().tolist() == [True, False, False, False]


@pytest.mark.parametrize("name", ["snip", "magnitude", "synflow", "force"])
def test_scores_that_are_all_zero_rank_nothing(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(CriterionError, match=f"{name}: all scores are zero, in '0.weight' and every other layer"):
        pb.prune(model, BATCH, name, 0.5)
    assert pb.prune(model, BATCH, name, 0.0).density == 1.0  # then there is nothing to rank


def test_a_network_that_is_cut_on_the_way_still_gets_its_mask() -> None:
    """What a schedule cuts off scores zero from then on; position decides, as for all equal scores."""
    model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (1.0, 0.0), strict=True):
            nn.init.constant_(parameter, value)
        model.get_parameter("1.weight")[0] = 0.1

    @dataclass(frozen=True)
    class Cuts(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            return (
                {
                    name: (w * p.detach()).abs()
                    for (name, w), p in zip(model.weights().items(), model.prunable.values(), strict=True)
                }
                if self.first(model)
                else {name: torch.zeros_like(w) for name, w in model.weights().items()}
            )

        def first(self, model: MaskedModel) -> bool:
            return bool(model.prunable["1.weight"].any())

    mask = pb.prune(model, BATCH, Cuts(), 0.6, schedule="linear:steps=2")
    assert mask.kept == 2


def test_the_layer_that_a_batch_does_not_fit_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(5, 2)))
    with pytest.raises(pb.UserError, match=r"snip: the batch.*does not fit the model in '1\.1', a Linear,: "):
        pb.prune(model, BATCH, "snip")
    model = nn.Sequential(nn.Embedding(3, 4), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(pb.UserError, match=r"does not fit the model in '0', a Embedding"):
        pb.prune(model, (torch.tensor([[7]]), torch.tensor([0])), "snip")


@pytest.mark.parametrize("sparsity", [1.0, -0.1, 95, float("nan")])
def test_what_is_not_a_sparsity(sparsity: float) -> None:
    with pytest.raises(pb.UserError, match=r"is outside \[0, 1\)"):
        pb.prune(linear([1] * 6), BATCH, "magnitude", sparsity)


def test_batches_that_do_not_fit() -> None:
    message = (
        r"snip: the batch, inputs of shape \(2, 3\), torch.float32 on cpu, does not fit the model in 'its own forward'"
    )
    with pytest.raises(pb.UserError, match=message):
        pb.prune(linear([1] * 8), BATCH, "snip")
    with pytest.raises(
        pb.UserError, match=r"snip: targets must lie in 0..1, the model's classes, but are 2: number the labels"
    ):
        pb.prune(linear([1] * 6), (torch.ones(1, 3), torch.tensor([2])), "snip")


GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


def on_gpu(test: Any) -> Any:
    """Marks a test that needs a CUDA device."""
    for mark in GPU:
        test = mark(test)
    return test


@on_gpu
@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_scores_on_a_gpu_are_those_of_the_cpu(name: str, network: tuple[nn.Module, pb.Batch]) -> None:
    model, batch = network
    cpu = pb.get_criterion(name).score(model, batch)
    cuda = pb.get_criterion(name).score(model.cuda(), batch.to("cuda"))
    for key, score in cpu.items():
        assert cuda[key].is_cuda
        assert torch.allclose(score, cuda[key].cpu(), rtol=1e-8, atol=1e-14)


@on_gpu
def test_selection_on_a_gpu_is_that_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = {str(i): torch.randn(n, generator=generator).round(decimals=2) for i, n in enumerate((10, 50_000, 90_000))}
    alive = {name: torch.rand(score.shape, generator=generator) < 0.4 for name, score in scores.items()}
    for count in (1, 700, 20_000):
        for live in (None, alive):
            cpu = select(scores, count, live)
            cuda = select(
                {n: s.cuda() for n, s in scores.items()}, count, live and {n: a.cuda() for n, a in live.items()}
            )
            assert all(torch.equal(cpu[name], cuda[name].cpu()) for name in cpu)


@on_gpu
@pytest.mark.parametrize("name", ["random", "er", "magnitude"])
@pytest.mark.parametrize("variant", ["none", "shuffle", "global-shuffle", "invert"])
def test_masks_on_a_gpu_are_those_of_the_cpu(name: str, variant: str, network: tuple[nn.Module, pb.Batch]) -> None:
    model, batch = network
    cpu = pb.prune(model, batch, name, 0.7, variant=variant)
    cuda = pb.prune(model.cuda(), batch.to("cuda"), name, 0.7, variant=variant)
    assert all(torch.equal(cpu[key], cuda[key].cpu()) for key in cpu)
