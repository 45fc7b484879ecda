"""Networks that keep tensors, share memory or hold themselves are scored as others, and stay as they are."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.networks.private_copy import private_copy
from pai_bench.scoring import MaskedModel, Scorer, Scores
from pai_bench.scoring.functions import weights
from tests.scoring.traces import assert_same


class Cycle(nn.Module):
    """Holds itself, so that its copies live until the garbage collector comes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.me = [self]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x)
        return logits


@pytest.mark.parametrize("fails", [False, True])
def test_the_callers_memory_stays_where_it_is(fails: bool) -> None:
    """A numpy view taken before is still the weight afterwards, whatever is kept of the scoring."""

    @dataclass(frozen=True)
    class Keeps(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            kept.append((model, model.weights()))
            if fails:
                raise RuntimeError("kept")
            return model.weights()

    kept: list[Any] = []
    model, batch = Cycle(), pb.Batch(torch.ones(1, 4), torch.tensor([0]))
    view, address = model.fc.weight.detach().numpy(), model.fc.weight.data_ptr()
    try:
        mask = pb.prune(model, batch, Keeps(), 0.5)
        scores = pb.get_criterion(Keeps()).score(model, batch)
    except RuntimeError as error:
        kept.append(error)
        mask, scores = pb.Mask({"fc.weight": torch.zeros(3, 4, dtype=torch.bool)}), None
    before = view.copy()
    held = weights(model)
    del kept[1:]
    kept[0] = kept[0][0]  # the copy of the network, not what weights() gave
    mask.apply_(model)
    assert model.fc.weight.data_ptr() == address
    assert np.array_equal(view, model.fc.weight.detach().numpy())
    if scores is not None:  # what is returned is the caller's own
        assert np.array_equal(scores["fc.weight"].numpy(), before)
    assert np.array_equal(held["fc.weight"].numpy(), before)


def test_weights_that_are_views_of_one_buffer() -> None:
    flat = torch.randn(40)
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 4, bias=False))
    for layer, part in zip(model, flat.split(20), strict=True):
        layer.weight.data = part.view(layer.weight.shape)
    batch = pb.Batch(torch.randn(3, 4), torch.arange(3))
    own = copy.deepcopy(model)
    before = flat.clone()
    one, other = (pb.prune(m, batch, "force", 0.5, schedule="linear:steps=3") for m in (model, own))
    assert all(torch.equal(one[name], other[name]) for name in one)
    one.apply_(model)
    assert flat.count_nonzero() == 20
    assert torch.equal(flat[flat != 0], before[flat != 0])


def test_numpy_strided_and_decorated_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[0].weight = nn.Parameter(torch.from_numpy(np.ones((3, 4), dtype=np.float32)))
    model[1].weight = nn.Parameter(torch.randn(3, 4).t())
    model[2].weight = nn.Parameter(torch.ones(1, 1).expand(4, 4))
    model[2].weight.note = "mine"  # type: ignore[attr-defined]
    batch = pb.Batch(torch.randn(3, 4), torch.arange(3))
    assert pb.prune(model, batch, "iter-snip", 0.5, schedule="linear:steps=3").kept == 20
    seen: list[Any] = []

    @dataclass(frozen=True)
    class Look(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
            seen.append(model.get_parameter("2.weight").note)  # type: ignore[attr-defined]
            return model.weights()

    pb.get_criterion(Look()).score(model, batch)
    assert seen == ["mine"]


def test_a_network_that_keeps_its_last_output_can_be_scored() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.last: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.fc(x)
            return self.last

    model, batch = Keeps(), pb.Batch(torch.randn(3, 4), torch.arange(3))
    expected = pb.get_criterion("snip").score(model, batch)
    model(batch.inputs)
    last = model.last
    assert_same(expected, pb.get_criterion("snip").score(model, batch))
    assert model.last is last


def test_a_copy_knows_its_own_parts_and_no_others() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), nn.BatchNorm1d(4))
    model.append(model[0])  # twice
    model[1].known = [model, model[0]]  # type: ignore[assignment]
    vars(model[0])["above"] = model
    model[2].register_buffer("nothing", None)
    twin = private_copy(model, ["0.weight"], "train")
    assert twin[3] is twin[0] is not model[0]  # type: ignore[index]
    known: Any = twin[1].known  # type: ignore[index]
    assert known[0] is twin
    assert known[1] is twin[0]
    assert vars(twin[0])["above"] is twin
    assert list(twin.state_dict()) == list(model.state_dict())
    assert [name for name, parameter in twin.named_parameters() if parameter.requires_grad] == ["0.weight"]
    assert [module.training for module in twin.modules()] == [False, False, False, False, True]
    assert vars(twin).keys() - {"_compiled_call_impl"} == vars(model).keys()


def test_buffers_that_a_forward_pass_replaces_start_anew() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.scale: Tensor
            self.register_buffer("scale", torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x) * self.scale
            self.scale = self.scale * 0.5
            return logits

    model, batch = Counts(), pb.Batch(torch.randn(4, 2), torch.arange(4) % 2)
    with Scorer(pb.get_criterion("force:bn=eval"), model) as scorer:
        assert_same(scorer.score(batch), scorer.score(batch))
    assert model.scale.item() == 1


class Stateful(nn.Module):
    """Keeps what its layers gave in buffers, in a list and by name, with the graph of that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 3)
        self.state: Tensor
        self.register_buffer("state", torch.zeros(4))
        self.register_buffer("last", torch.zeros(0))
        self.given: list[Tensor] = []
        self.by_name: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x) + self.state
        self.state, self.last = hidden.mean(0), hidden
        self.given, self.by_name = [hidden], {"hidden": hidden}
        output: Tensor = self.b(hidden)
        return output


def test_a_network_that_keeps_the_graph_of_its_last_pass_starts_anew_for_every_mask() -> None:
    torch.manual_seed(0)
    model, batch = Stateful(), pb.Batch(torch.randn(6, 5), torch.arange(6) % 3)
    plain = nn.Sequential(*map(copy.deepcopy, model.children()))
    before = pb.prune(model, batch, "snip", 0.5, schedule="exponential:steps=3")
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            before.values(), pb.prune(plain, batch, "snip", 0.5, schedule="exponential:steps=3").values(), strict=True
        )
    )
    model(batch.inputs)
    pb.prune(model, batch, "snip", 0.5, schedule="exponential:steps=3")
    assert model.given[0].grad_fn is not None


class Growing(nn.Module):
    """Keeps the outputs of all calls in a buffer, of which another pass makes the outputs."""

    kept: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("kept", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x) * (1 + self.kept.numel())
        self.kept = torch.cat([self.kept, logits.detach().flatten()])
        return logits


def test_a_buffer_that_grows_is_as_it_was_at_each_cut() -> None:
    model, batch = Growing(), pb.Batch(torch.randn(6, 4), torch.arange(6) % 3)
    scorer = Scorer(pb.get_criterion("snip"), model)
    with scorer:
        first, second = scorer.score(batch), scorer.score(batch)
    assert_same(first, second)
    assert model.kept.shape == (1,)
