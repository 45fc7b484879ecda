"""The options that every criterion has, and what a batch can say: derived independently, in float64."""

import copy
import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.scoring import MaskedModel, Scorer, prunable_parameters, redraw_
from pai_bench.scoring.functions import gradients, weights
from pai_bench.scoring.functions import prunable_parameters as prunable_weights
from pai_bench.support.registry import CRITERIA
from tests.made import UNSTRUCTURED

Example = tuple[nn.Module, pb.Batch]
USE_DATA = [name for name in UNSTRUCTURED if CRITERIA.find(name)[0].target.uses_data]


def assert_close(found: pb.Scores, expected: pb.Scores) -> None:
    assert found.keys() == expected.keys()
    for name, score in expected.items():
        scale = max(float(score.abs().max()), 1e-300)
        assert torch.allclose(found[name] / scale, score / scale, rtol=1e-9, atol=1e-9), name


def part(batch: pb.Batch, start: int, stop: int) -> pb.Batch:
    return pb.Batch(batch.inputs[start:stop], batch.targets[start:stop])


@pytest.mark.parametrize("name", USE_DATA)
@pytest.mark.parametrize("size", [1, 5, 12])
def test_micro_batches_give_the_scores_of_the_whole_batch(name: str, size: int, network: Example) -> None:
    model, batch = network
    whole = pb.get_criterion(name, bn="eval").score(model, batch)
    pieces = pb.get_criterion(name, bn="eval", micro_batch=size).score(model, batch)
    assert_close(pieces, whole)


@pytest.mark.parametrize("name", USE_DATA)
def test_micro_batches_with_the_statistics_of_the_batch_are_refused(name: str) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    batch = pb.Batch(torch.randn(6, 2), torch.arange(6) % 2)
    with pytest.raises(pb.UserError, match="micro_batch=2 would give '1' the statistics of 2 examples"):
        pb.get_criterion(name, bn="train", micro_batch=2).score(model, batch)
    pb.get_criterion(name, bn="train", micro_batch=6).score(model, batch)  # the batch is whole


def test_gradients_of_a_batch_whose_pieces_do_not_reach_every_layer() -> None:
    """An expert that only some examples use: its gradient is complete before the last piece."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(3, 2, bias=False) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            chosen = 0 if bool((x[0, 0] > 0).item()) else 1
            logits: Tensor = self.experts[chosen](x)
            return logits

    model = Experts().double()
    inputs = torch.randn(4, 3, dtype=torch.float64)
    inputs[:, 0] = torch.tensor([1.0, 1.0, -1.0, -1.0])
    batch = pb.Batch(inputs, torch.tensor([0, 1, 0, 1]))
    scores = pb.get_criterion("force", bn="eval", micro_batch=2).score(model, batch)
    parameters = prunable_parameters(model)
    losses = [F.cross_entropy(model(x), y) for x, y in zip(inputs.split(2), batch.targets.split(2), strict=True)]
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(parameters.values()), materialize_grads=True)
    for (name, weight), g in zip(parameters.items(), expected, strict=True):
        assert torch.allclose(scores[name], (weight.detach() * g).abs(), rtol=1e-12)
    assert not scores["experts.2.weight"].any()


@pytest.mark.parametrize("bn", ["eval", "train"])
def test_several_score_batches_share_one_mean_loss(bn: str, network: Example) -> None:
    """Each batch goes through the network by itself, so that batch norm has its own statistics."""
    model, batch = network
    several = pb.Batch(batch.inputs, batch.targets, batches=3)
    scores = pb.get_criterion("force", bn=bn).score(model, several)
    twin = copy.deepcopy(model).eval()
    for module in twin.modules():
        module.training = bn == "train" and isinstance(module, nn.BatchNorm2d)
    parameters = prunable_parameters(twin)
    losses = [F.cross_entropy(twin(batch.inputs[i : i + 4]), batch.targets[i : i + 4]) for i in (0, 4, 8)]
    found = torch.autograd.grad(torch.stack(losses).mean(), list(parameters.values()))
    assert_close(scores, {n: (w.detach() * g).abs() for (n, w), g in zip(parameters.items(), found, strict=True)})


@pytest.mark.parametrize("name", USE_DATA)
def test_scores_of_several_batches_can_be_summed(name: str, network: Example) -> None:
    model, batch = network
    several = pb.Batch(batch.inputs, batch.targets, batches=3)
    criterion = pb.get_criterion(name, accumulate="score")
    found = criterion.score(model, several)
    each = [pb.get_criterion(name).score(model, part(batch, i, i + 4)) for i in (0, 4, 8)]
    if not criterion.normalised:
        assert_close(found, {key: torch.stack([s[key] for s in each]).sum(0) for key in found})
        return
    # the sum of magnitudes is normalised once; each batch's own scores sum to 1 by themselves
    raw = [pb.get_criterion("force", bn=criterion.bn).score(model, part(batch, i, i + 4)) for i in (0, 4, 8)]
    expected = {key: torch.stack([s[key] for s in raw]).sum(0) for key in found}
    total = sum(float(s.sum()) for s in expected.values())
    assert_close(found, {key: score / total for key, score in expected.items()})


def test_summed_magnitudes_are_not_the_magnitude_of_the_sum(network: Example) -> None:
    model, batch = network
    several = pb.Batch(batch.inputs, batch.targets, batches=3)
    one, other = (pb.get_criterion("snip", accumulate=way).score(model, several) for way in ("gradient", "score"))
    assert any(not torch.allclose(one[name], other[name], rtol=1e-3) for name in one)


def test_grasp_of_halves_is_that_of_the_whole_without_batch_norm(network: Example) -> None:
    """The authors' code sums over two halves of the batch: equal where batch norm does not tell them apart."""
    model, batch = network
    whole = pb.get_criterion("grasp:bn=eval").score(model, batch)
    assert_close(pb.get_criterion("grasp:bn=eval").score(model, dataclasses.replace(batch, batches=2)), whole)


def test_biases_in_the_budget(network: Example) -> None:
    """SNIP's own code counts them; at zero they score zero, and go first."""
    model, batch = network
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.zero_()
    scores = pb.get_criterion("snip:biases=true").score(model, batch)
    without = pb.get_criterion("snip").score(model, batch)
    extra = [name for name in scores if name not in without]
    assert extra
    assert all("bias" in name and not scores[name].any() for name in extra)
    assert not [name for name in extra if "bn" in name or "norm" in name]
    for name, score in without.items():
        assert torch.equal(scores[name], score)
    size = sum(score.numel() for score in scores.values())
    mask = pb.prune(model, batch, "snip:biases=true", 0.5)
    assert mask.kept == round(0.5 * size)
    assert not any(bool(mask[name].any()) for name in extra)
    pruned = mask.apply_(copy.deepcopy(model))
    assert sum(int(p.count_nonzero()) for n, p in pruned.named_parameters() if n in mask) <= mask.kept


@pytest.mark.parametrize("name", UNSTRUCTURED)
def test_every_criterion_scores_biases_when_asked(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)).double()
    batch = pb.Batch(torch.randn(4, 1, 3, 3, dtype=torch.float64), torch.arange(4) % 2)
    criterion = pb.get_criterion(name, biases=True)
    assert list(criterion.score(model, batch)) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert pb.prune(model, batch, criterion, 0.5).kept == round(0.5 * (12 + 3 + 24 + 2))


def test_another_draw_of_the_weights_is_scored() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    batch = pb.Batch(torch.ones(1, 3), torch.tensor([0]))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    criterion = pb.get_criterion("magnitude:score-init=redrawn")
    scores = criterion.score(model, batch)
    other = redraw_(copy.deepcopy(model), 0)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        if name in scores:
            assert torch.equal(scores[name], other.get_parameter(name).detach().abs())
            assert not torch.equal(scores[name], parameter.detach().abs())

    def ones(_seed: int) -> nn.Module:
        drawn = copy.deepcopy(model)
        for parameter in drawn.parameters():
            nn.init.ones_(parameter)
        return drawn

    given = Scorer(criterion, model, draw=ones).score(batch)
    assert all(bool((score == 1).all()) for score in given.values())
    mask = pb.prune(model, batch, criterion, 0.5, draw=ones)
    assert mask.kept_per_layer() == {"0.weight": 10, "1.weight": 0}  # all equal: position decides
    with pytest.raises(pb.UserError, match="draw gives a Linear with other parameters than Sequential"):
        pb.prune(model, batch, criterion, 0.5, draw=lambda _seed: nn.Linear(3, 4))


def test_a_module_that_cannot_be_drawn_again_is_named() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x) * self.scale
            return logits

    batch = pb.Batch(torch.ones(1, 2), torch.tensor([0]))
    with pytest.raises(pb.UserError, match="Own, has parameters but no method reset_parameters: give draw="):
        pb.prune(Own(), batch, "snip:score-init=redrawn", 0.5)
    with pytest.raises(pb.UserError, match="'0', a Own, has parameters but no method reset_parameters"):
        pb.prune(nn.Sequential(Own()), batch, "snip:score-init=redrawn", 0.5)


def test_gradients_outside_a_score_are_refused() -> None:
    model, batch = nn.Linear(2, 2), pb.Batch(torch.ones(1, 2), torch.tensor([0]))
    with pytest.raises(pb.UserError, match="taken inside a criterion's score"):
        gradients(model, batch)


def test_weights_of_a_network_that_is_not_scored_are_copies() -> None:
    model = nn.Linear(2, 2)
    (found,) = weights(model).values()
    assert torch.equal(found, model.weight)
    assert found.data_ptr() != model.weight.data_ptr()
    assert [*prunable_weights(model, biases=True).values()] == [model.weight, model.bias]


def test_the_hessian_gradient_product_as_a_dict(network: Example) -> None:
    """What a third party's criterion may use: H g itself."""

    @dataclass(frozen=True)
    class Product(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            return model.hessian_gradient_product(batch)

    model, batch = network
    found = pb.get_criterion(Product()).score(model, batch)
    grasp = pb.get_criterion("grasp:bn=eval:temperature=1").score(model, batch)
    assert_close(grasp, {name: weight.detach() * found[name] for name, weight in prunable_parameters(model).items()})


def test_memory_of_scores_is_that_of_the_gradients() -> None:
    """A score lies where its gradient was: the formula gives back the memory that it was handed."""
    model = nn.Sequential(nn.Linear(700, 600), nn.Linear(600, 700))
    seen: list[int] = []

    @dataclass(frozen=True)
    class Look(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:

            def formula(w: Tensor, g: Tensor, _loss: Tensor) -> Tensor:
                assert all(parameter.grad is None for parameter in model.prunable.values())  # one at a time
                seen.append(g.untyped_storage().data_ptr())
                return g.mul_(w).abs_()

            return model.saliencies(batch, formula)

    scores = pb.get_criterion(Look()).score(model, pb.Batch(torch.randn(2, 700), torch.tensor([0, 1])))
    assert {score.untyped_storage().data_ptr() for score in scores.values()} == set(seen)
    assert len(seen) > 2  # in blocks


def test_weights_are_not_copied_for_a_score() -> None:
    """The replica reads the caller's memory: scoring by magnitude allocates the scores and little else."""
    from pai_bench.networks.private_copy import still_shared

    @dataclass(frozen=True)
    class Look(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            scores = {name: w.abs() for name, w in prunable_parameters(model).items()}
            assert all(still_shared(p) for p in model.parameters())
            return {name: score.detach() for name, score in scores.items()}

    pb.get_criterion(Look()).score(
        nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 2)), pb.Batch(torch.ones(1, 30), torch.tensor([0]))
    )


@pytest.mark.parametrize("option", ["micro_batch", "accumulate=score"])
def test_a_formula_that_would_ignore_an_option_is_refused(option: str) -> None:
    """A criterion with gradients of its own making does not know of micro-batches and score batches."""

    @dataclass(frozen=True)
    class Own(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            parameters = model.prunable
            value = F.cross_entropy(model(batch.inputs), batch.targets)
            found = torch.autograd.grad(value, list(parameters.values()))
            return dict(zip(parameters, found, strict=True))

    model, batch = nn.Linear(2, 2), pb.Batch(torch.randn(4, 2), torch.arange(4) % 2)
    given = dataclasses.replace(batch, batches=2)
    pb.get_criterion(Own()).score(model, given)
    pb.get_criterion(Own(accumulate="score")).score(model, batch)  # of a single batch, it is the same
    pb.get_criterion("magnitude", micro_batch=2, accumulate="score").score(model, given)  # which does not use it
    criterion: pb.Criterion = Own(micro_batch=2) if option == "micro_batch" else Own(accumulate="score")
    with pytest.raises(pb.UserError, match=f"Own ignores {option}: it does not take its gradients by saliencies"):
        criterion.score(model, given)


def test_plain_gradients_cannot_be_summed_as_scores() -> None:
    @dataclass(frozen=True)
    class Plain(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            return model.gradients(batch)

    batch = pb.Batch(torch.randn(4, 2), torch.arange(4) % 2, batches=2)
    pb.get_criterion(Plain()).score(nn.Linear(2, 2), batch)
    single = pb.Batch(batch.inputs, batch.targets)
    pb.get_criterion(Plain(accumulate="score")).score(nn.Linear(2, 2), single)  # there is but one
    with pytest.raises(pb.UserError, match=r"accumulate=score needs saliencies"):
        pb.get_criterion(Plain(accumulate="score")).score(nn.Linear(2, 2), batch)


def test_micro_batches_are_refused_where_batch_norm_has_no_statistics_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
    batch = pb.Batch(torch.randn(6, 2), torch.arange(6) % 2)
    with pytest.raises(pb.UserError, match="micro_batch=2 would give '1' the statistics of 2 examples"):
        pb.get_criterion("snip", bn="eval", micro_batch=2).score(model, batch)


class Spelled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 6


def test_grasp_on_a_function_without_a_second_derivative() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Hardsigmoid(), nn.Linear(6, 2)).double()
    batch = pb.Batch(torch.randn(5, 3).double(), torch.arange(5) % 2)
    found = pb.get_criterion("grasp:bn=eval").score(model, batch)
    same = nn.Sequential(model[0], Spelled(), model[2])
    assert_close(found, pb.get_criterion("grasp:bn=eval").score(same, batch))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 0}, ""),
        ({"seed": 2**63 - 1}, ""),
        ({"seed": -1}, r"seed=-1 is outside 0\.\.2\*\*63"),
        ({"seed": 2**63}, r"is outside 0\.\.2\*\*63"),
        ({"micro_batch": 1}, ""),
        ({"micro_batch": 0}, "micro_batch=0 must be at least 1"),
    ],
)
def test_limits_of_options(options: dict[str, int], message: str) -> None:
    if not message:
        assert str(pb.get_criterion("random", **options)).endswith(str(*options.values()))
        return
    with pytest.raises(pb.UserError, match=message):
        pb.get_criterion("random", **options)


@pytest.mark.parametrize("size", [None, 5])
def test_the_loss_beside_its_gradients(size: int | None) -> None:
    torch.manual_seed(0)
    model, batch = nn.Linear(2, 3).double(), pb.Batch(torch.randn(12, 2).double(), torch.arange(12) % 3)
    found: list[Tensor] = []

    class Look(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            found.append(model.loss_and_gradients(batch)[0])
            found.append(model.loss(batch))
            return model.hessian_saliencies(batch, lambda _w, product, _value: product)

    scores = pb.get_criterion(Look(micro_batch=size)).score(model, batch)
    for value in found:
        torch.testing.assert_close(
            value.detach().double(), F.cross_entropy(model(batch.inputs), batch.targets).detach()
        )
    grasp = pb.get_criterion("grasp:temperature=1").score(model, batch)
    assert_close({"weight": model.weight.detach() * scores["weight"]}, grasp)
