"""Each sanity variant does what it says; one published code's shuffle does nothing."""

import copy
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.pruning import Variant, get_variant
from pai_bench.scoring import prunable_parameters
from tests.made import UNSTRUCTURED

Example = tuple[nn.Module, pb.Batch]
NAMES = UNSTRUCTURED
FEW = "exponential:steps=3"


def layers(mask: pb.Mask) -> list[int]:
    return list(mask.kept_per_layer().values())


def same(one: pb.Mask, other: pb.Mask) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def wide() -> Example:
    """A network with enough connections for a coincidence to be out of the question."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 24), nn.Tanh(), nn.Linear(24, 3))
    return model, pb.Batch(torch.randn(12, 20), torch.arange(12) % 3)


@pytest.mark.parametrize("name", NAMES)
def test_shuffle_permutes_inside_each_layer(name: str, wide: Example) -> None:
    plain, shuffled, again, other = (
        pb.prune(*wide, name, 0.7, schedule=FEW, variant=variant, seed=seed)
        for variant, seed in (("none", 0), ("shuffle", 0), ("shuffle", 0), ("shuffle", 1))
    )
    assert layers(shuffled) == layers(plain)
    assert same(shuffled, again)
    for key, tensor in plain.items():
        assert torch.equal(shuffled[key], tensor) == bool(tensor.all())  # er fills the smallest layer
    assert not same(shuffled, other)


@pytest.mark.parametrize("name", NAMES)
def test_global_shuffle_permutes_over_all_layers(name: str, wide: Example) -> None:
    plain, shuffled = (pb.prune(*wide, name, 0.7, schedule=FEW, variant=v) for v in ("none", "global-shuffle"))
    assert shuffled.kept == plain.kept
    for key, tensor in shuffled.items():
        assert not torch.equal(tensor, plain[key])
        # 0.3 of the layer, binomial
        size = tensor.numel()
        assert abs(int(tensor.sum()) - 0.3 * size) < 5 * (0.21 * size) ** 0.5


def test_a_shuffle_is_uniform_over_positions() -> None:
    """Of 8 positions 3 are kept: over many seeds each position as often as another, whatever the mask was."""
    model = nn.Linear(4, 2, bias=False)
    batch = pb.Batch(torch.ones(1, 4), torch.tensor([0]))
    counts = torch.zeros(2, 4)
    for seed in range(800):
        counts += pb.prune(model, batch, "magnitude", 5 / 8, variant="shuffle", seed=seed)["weight"]
    # 800 draws with p = 3/8: standard deviation 13.7
    assert (counts - 300).abs().max() < 5 * 13.7


@pytest.mark.parametrize("name", NAMES)
def test_invert_keeps_the_lowest(name: str, wide: Example) -> None:
    """One-shot at a half: what is kept and what is not change places, ties and quotas apart."""
    plain, inverted = (pb.prune(*wide, name, 0.5, schedule="one-shot", variant=v) for v in ("none", "invert"))
    assert inverted.kept == plain.kept
    if pb.get_criterion(name).scope == "global":
        for key in plain:
            assert torch.equal(inverted[key], ~plain[key])


def test_invert_keeps_the_lowest_of_those_alive_at_every_cut() -> None:
    """By hand: |w| = 1..8; the lowest four of eight, then the lowest two of those."""
    model = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.arange(1.0, 9.0).view(2, 4))
    batch = pb.Batch(torch.ones(1, 4), torch.tensor([0]))
    mask = pb.prune(model, batch, "magnitude", 0.75, schedule="exponential:steps=2", variant="invert")
    assert mask["weight"].flatten().nonzero().flatten().tolist() == [0, 1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", ["one-shot", FEW, f"{FEW}:returns=true"])
def test_quota_takes_the_counts_from_one_and_the_ranking_from_another(name: str, schedule: str, wide: Example) -> None:
    model, batch = wide
    reference = pb.prune(*wide, "erk", 0.7)
    mask = pb.prune(*wide, name, 0.7, schedule=schedule, variant="quota:erk")
    assert layers(mask) == layers(reference)
    if schedule == "one-shot":
        scores = pb.get_criterion(name).score(model, batch)
        for key, kept in mask.kept_per_layer().items():
            expected = scores[key].flatten().argsort(descending=True, stable=True)[:kept]
            assert set(mask[key].flatten().nonzero().flatten().tolist()) == set(expected.tolist())


def test_a_quota_of_an_iterative_criterion(wide: Example) -> None:
    reference = pb.prune(*wide, "synflow:seed=3", 0.9)
    mask = pb.prune(*wide, "snip-it", 0.9, variant="quota:synflow:seed=3")
    assert layers(mask) == layers(reference)
    assert not same(mask, reference)


@pytest.mark.parametrize("name", NAMES)
def test_reinit_leaves_the_mask_as_it_is(name: str, wide: Example) -> None:
    assert same(*(pb.prune(*wide, name, 0.7, schedule=FEW, variant=v) for v in ("none", "reinit")))


@pytest.mark.parametrize("variant", ["shuffle", "global-shuffle", "invert", "quota:er", "reinit"])
def test_no_variant_touches_the_model(variant: str, network: Example) -> None:
    model, batch = network
    before = copy.deepcopy(model.state_dict())
    mask = pb.prune(model, batch, "snip", 0.5, variant=variant)
    assert mask.kept == round(0.5 * sum(p.numel() for p in prunable_parameters(model).values()))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_texts() -> None:
    for text in ("none", "shuffle", "global-shuffle", "reinit", "invert", "quota:erk", "quota:grasp:temperature=1.0"):
        assert str(get_variant(text)) == text
    assert get_variant("global_shuffle") == Variant("global-shuffle")
    assert get_variant(get_variant("invert")) == Variant("invert")
    grasp = Variant("quota", pb.get_criterion("grasp:temperature=1"))
    assert str(grasp) == "quota:grasp:temperature=1.0"

    class Second(type(pb.get_criterion("magnitude"))):  # type: ignore[misc]
        formula_version: ClassVar[int] = 2

    assert str(Variant("quota", Second())) == "quota:Second@2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shufle", "unknown variant 'shufle': did you mean shuffle"),
        ("quota", "variant quota needs the name of a criterion, for example quota:erk"),
        ("quota:", "variant quota needs the name of a criterion"),
        ("quota:erkk", "unknown criterion 'erkk': did you mean erk"),
        ("shuffle:erk", "unknown variant 'shuffle:erk'"),
    ],
)
def test_mistakes(text: Any, message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        get_variant(text)
