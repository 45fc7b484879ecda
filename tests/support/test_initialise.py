"""Initialisations: variances by fan in and fan out, gate by gate, and what stays as it is."""

import math

import pytest
import torch
from torch import nn

import pai_bench as pb
from pai_bench.experiment.sweep import Sweep
from pai_bench.support.initialise import initialise
from pai_bench.support.registry import INITIALISATIONS


def variance(initialisation: str, fan_in: int, fan_out: int, *, kernel: bool = False) -> float:
    """By the formulas; that of ``grasp`` for a `kernel` differs from that of a matrix."""
    # of a normal distribution cut off at 2: 1 - 2 * 2 phi(2) / (2 Phi(2) - 1)
    density, inside = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    of_units = {"vs-x": 2 / (fan_in + fan_out), "vs-h": 2 / fan_in, "vs": 1 / fan_in, "openlth": 2 / fan_in}
    of_units["grasp"] = 2 / fan_out if kernel else 0.01**2
    return (of_units | {"rn": 1.0, "tn": 1 - 4 * density / inside})[initialisation]


def check(weight: torch.Tensor, expected: float) -> None:
    """Mean 0 and the expected variance, within 5 standard errors of a normal sample."""
    n = weight.numel()
    assert abs(float(weight.double().mean())) < 5 * math.sqrt(expected / n)
    assert float(weight.double().var()) == pytest.approx(expected, rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_variances(initialisation: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 64, 5), nn.BatchNorm2d(64), nn.Linear(200, 300), nn.LSTM(100, 150))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    assert initialise(model, initialisation) is model
    found = {name: parameter.detach() for name, parameter in model.named_parameters()}
    check(found["0.weight"], variance(initialisation, 8 * 25, 64 * 25, kernel=True))
    check(found["2.weight"], variance(initialisation, 200, 300))
    for gate in found["3.weight_ih_l0"].split(150):
        check(gate, variance(initialisation, 100, 150))
    for gate in found["3.weight_hh_l0"].split(150):
        check(gate, variance(initialisation, 150, 150))
    biases = {name: found[name] for name in ("0.bias", "2.bias", "3.bias_ih_l0", "3.bias_hh_l0")}
    if initialisation == "openlth":  # torch's own
        for bias, fan_in in zip(biases.values(), (8 * 25, 200, 150, 150), strict=True):
            ends = (float(end) * math.sqrt(fan_in) for end in (bias.min(), bias.max()))
            assert -1 <= next(ends) < -0.9 < 0.9 < next(ends) <= 1
    else:
        assert not any(bias.any() for bias in biases.values())
    gamma, beta = found["1.weight"], found["1.bias"]
    if initialisation == "openlth":
        assert 0 <= float(gamma.min()) < 0.2
        assert 0.8 < float(gamma.max()) < 1
    else:
        assert bool((gamma == (1 if initialisation == "grasp" else 7)).all())
    assert bool((beta == (0 if initialisation in ("openlth", "grasp") else 7)).all())
    if initialisation == "tn":
        assert float(found["2.weight"].abs().max()) <= 2
    if initialisation == "vs":
        end = 2 / math.sqrt(200 * variance("tn", 200, 300))
        assert 0.99 * end < float(found["2.weight"].abs().max()) <= end


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_biases_that_torch_sets_to_zero_or_leaves_out(initialisation: str) -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8, bias=False), nn.MultiheadAttention(8, 2))
    initialise(model, initialisation)
    for name in ("2.in_proj_bias", "2.out_proj.bias"):
        assert not model.get_parameter(name).any()


def test_projections_of_attention_are_matrices_of_their_own() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(128, 4)
    initialise(attention, "vs-x")
    for projection in attention.in_proj_weight.detach().split(128):
        check(projection, 1 / 128)
    check(attention.out_proj.weight.detach(), 1 / 128)


def test_a_network_without_such_layers_is_refused() -> None:
    with pytest.raises(pb.UserError, match="LayerNorm has no layer that vs-h is for"):
        initialise(nn.LayerNorm(3), "vs-h")


def test_the_settings_of_a_sweep_are_these_laws() -> None:
    for initialisation in INITIALISATIONS:
        assert Sweep(init=initialisation).init == initialisation
        assert pb.get_criterion(f"snip:score-init={initialisation}").score_init == initialisation


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_weights_of_another_law_are_scored_and_the_networks_own_stay(initialisation: str) -> None:
    model = pb.create_model("lenet-300-100", input_shape=(1, 8, 8), num_classes=4, seed=0)
    before = [weight.clone() for weight in model.parameters()]
    batch = pb.Batch(torch.randn(8, 1, 8, 8), torch.arange(8) % 4)
    scores = pb.get_criterion("magnitude", score_init=initialisation).score(model, batch)
    check_scale = variance(initialisation, 64, 300)
    assert float(scores["fc1.weight"].square().mean()) == pytest.approx(check_scale, rel=0.1)
    assert all(torch.equal(weight, old) for weight, old in zip(model.parameters(), before, strict=True))
    assert scores["fc1.weight"].equal(
        pb.get_criterion("magnitude", score_init=initialisation).score(model, batch)["fc1.weight"]
    )


def test_a_network_by_a_law_is_that_of_its_seed() -> None:
    shapes = {"input_shape": (1, 8, 8), "num_classes": 4}
    one, same, other, own = (
        pb.create_model("lenet-300-100", **shapes, seed=seed, init=init)  # type: ignore[arg-type]
        for seed, init in ((0, "vs-h"), (0, "vs-h"), (1, "vs-h"), (0, "own"))
    )
    weight = one.get_parameter("fc1.weight")
    assert torch.equal(weight, same.get_parameter("fc1.weight"))
    assert not torch.equal(weight, other.get_parameter("fc1.weight"))
    assert not torch.equal(weight, own.get_parameter("fc1.weight"))


@pytest.mark.parametrize("initialisation", ["vs-x", "vs-h"])
def test_groups_and_transposed_convolutions_have_their_own_fans(initialisation: str) -> None:
    torch.manual_seed(0)
    grouped, back = nn.Conv2d(128, 256, 5, groups=4), nn.ConvTranspose2d(64, 32, 5)
    initialise(nn.Sequential(grouped, back), initialisation)
    check(grouped.weight.detach(), variance(initialisation, 32 * 25, 64 * 25))
    check(back.weight.detach(), variance(initialisation, 64 * 25, 32 * 25))


def test_parametrised_layers_are_refused() -> None:
    with pytest.raises(pb.UserError, match="'0' is parametrised, so that tn cannot draw its weights"):
        initialise(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))), "tn")


def test_what_is_not_drawn_is_no_obstacle() -> None:
    """Layers of other kinds that are parametrised, and batch norm without a scale."""
    other = nn.utils.parametrizations.weight_norm(nn.PReLU(), "weight", dim=0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), other)
    before = other.weight.detach().clone()
    for initialisation in INITIALISATIONS:
        initialise(model, initialisation)
    assert torch.equal(other.weight, before)


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_the_projection_of_an_lstm_is_one_matrix(initialisation: str) -> None:
    torch.manual_seed(0)
    lstm = initialise(nn.LSTM(30, 200, proj_size=100), initialisation)
    check(lstm.get_parameter("weight_hr_l0").detach(), variance(initialisation, 200, 100))


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_gates_of_layers_with_different_numbers_of_hidden_units(kind: type[nn.LSTM] | type[nn.GRU], gates: int) -> None:
    """As smaller networks have them: 64 in the first layer, and 32 in the second, which reads those 64."""
    layer = kind(40, 64, num_layers=2)
    layer.weight_ih_l1 = nn.Parameter(torch.empty(gates * 32, 64))
    layer.weight_hh_l1 = nn.Parameter(torch.empty(gates * 32, 32))
    initialise(layer, "vs-x")
    check(layer.get_parameter("weight_hh_l0").detach(), variance("vs-x", 64, 64))
    check(layer.weight_ih_l1.detach(), variance("vs-x", 64, 32))
    check(layer.weight_hh_l1.detach(), variance("vs-x", 32, 32))


def test_projections_of_attention_with_fewer_heads() -> None:
    attention = nn.MultiheadAttention(96, 3)
    attention.in_proj_weight = nn.Parameter(torch.empty(3 * 32, 96))
    initialise(attention, "vs-x")
    check(attention.in_proj_weight.detach(), variance("vs-x", 96, 32))
