"""Weights outside of the usual layers are found by what they do, or named; what a user chooses is what is pruned."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import pai_bench as pb
from pai_bench.graph.flops import flops
from pai_bench.scoring.prunable import candidates, prunable_names, traced_parameters
from pai_bench.support.errors import UserError

X, TOKENS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12).reshape(6, 2) % 7
Y = torch.arange(6) % 3


class Own(nn.Module):
    """Computes `of` with parameters of these shapes; beside them a usual layer, of 4 inputs and 3 outputs."""

    def __init__(self, of: Callable[[Any, Tensor], Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.of, self.fc = of, nn.Linear(4, 3)
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape) / 2))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.of(self, x)
        return found


def convolved(m: Any, x: Tensor) -> Tensor:
    return m.fc(F.conv1d(x.unsqueeze(1), m.w, padding=1).mean(1))  # type: ignore[no-any-return]


FOUND: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, tuple[int, ...]], list[str]]] = {
    "inputs first": (lambda m, x: m.fc(x @ m.w), {"w": (4, 4)}, ["w"]),
    "addmm": (lambda m, x: torch.addmm(m.b, m.fc(x), m.w), {"w": (3, 3), "b": (3,)}, ["w"]),
    "einsum": (lambda m, x: torch.einsum("bi,io->bo", m.fc(x), m.w), {"w": (3, 3)}, ["w"]),
    "functional convolution": (convolved, {"w": (5, 1, 3)}, ["w"]),
    "transposed, copied": (lambda m, x: m.fc(F.linear(x, m.w.t().contiguous())), {"w": (4, 4)}, ["w"]),
    "in parts": (lambda m, x: m.fc(x @ m.w[:, :4] + x @ m.w[:, 4:]), {"w": (4, 8)}, ["w"]),
    "joined": (lambda m, x: m.fc(x) + F.linear(x, torch.cat([m.v, m.w])), {"v": (1, 4), "w": (2, 4)}, ["v", "w"]),
    "scaled": (lambda m, x: m.fc(F.linear(x, m.w * m.g)), {"w": (4, 4), "g": (4, 1)}, ["w"]),
    "masked": (lambda m, x: m.fc(F.linear(x, torch.tril(m.w) / 2)), {"w": (4, 4)}, ["w"]),
    "squashed": (lambda m, x: m.fc(F.linear(x, m.w.tanh().abs().clamp(max=0.5))), {"w": (4, 4)}, ["w"]),
    "vector": (lambda m, x: m.fc(x) * (x @ m.w).unsqueeze(1), {"w": (4,)}, ["w"]),
    "low rank": (lambda m, x: m.fc(x) + x @ m.a @ m.b, {"a": (4, 2), "b": (2, 3)}, ["a", "b"]),
    "scale, shift, class token": (
        lambda m, x: m.fc(torch.cat([m.token, x]) * m.scale + m.shift)[1:],
        {"token": (1, 4), "scale": (4,), "shift": (1, 4)},
        [],
    ),
    "normalised in two dimensions": (
        lambda m, x: m.fc(F.layer_norm(x.view(-1, 2, 2), (2, 2), m.g, m.s).flatten(1)),
        {"g": (2, 2), "s": (2, 2)},
        [],
    ),
    "looked up": (lambda m, x: m.fc(x + m.table[x.argmax(1)]), {"table": (4, 4)}, []),
}


@pytest.mark.parametrize("kind", FOUND)
def test_operands_of_products_are_found(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    of, shapes, expected = FOUND[kind]
    model = Own(of, **shapes)
    assert list(traced_parameters(model, X).weights) == expected
    assert not caplog.records
    mask = pb.prune(model, (X, Y), sparsity=0.5)
    assert set(mask) == {*expected, "fc.weight"}
    assert list(mask) == [name for name, _ in model.named_parameters() if name in mask]
    scores = pb.get_criterion("snip").score(model, pb.Batch(X, Y))
    assert list(scores) == list(mask)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    loss = F.cross_entropy(model(X), Y)
    for name, score in scores.items():
        (gradient,) = torch.autograd.grad(loss, model.get_parameter(name), retain_graph=True)
        expected_score = (weights[name] * gradient).abs()
        torch.testing.assert_close(score / score.sum(), expected_score / expected_score.sum())


def parametrised(kind: str) -> nn.Module:
    """A network whose first layer computes its weight."""
    layer = nn.Linear(4, 5)
    made: dict[str, Callable[[nn.Linear], Any]] = {
        "weight norm": parametrizations.weight_norm,
        "old weight norm": torch.nn.utils.weight_norm,
        "spectral norm": parametrizations.spectral_norm,
        "old spectral norm": torch.nn.utils.spectral_norm,
        "pruned": lambda one: prune.l1_unstructured(one, "weight", 0.5),
        "orthogonal": parametrizations.orthogonal,
        "none": lambda one: one,
    }
    return nn.Sequential(made[kind](layer), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("kind", "name"),
    [("pruned", "0.weight_orig"), ("none", "0.weight")],
)
def test_what_a_layer_scales_to_its_weight_is_found(kind: str, name: str) -> None:
    """A connection is removed where the parameter is zero."""
    torch.manual_seed(0)
    model = parametrised(kind)
    mask = pb.prune(model, (X, Y), sparsity=0.7)
    assert set(mask) == {name, "2.weight"}
    mask.apply_(model)
    computed = model[0](torch.eye(4)) - model[0](torch.zeros(1, 4))  # type: ignore[index]
    assert not computed[~mask[name].T].any()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("weight norm", "0.parametrizations.weight.original1"),
        ("old weight norm", "0.weight_v"),
        ("spectral norm", "0.parametrizations.weight.original"),
        ("old spectral norm", "0.weight_orig"),
    ],
)
def test_weights_scaled_by_a_norm_of_themselves_are_named(
    kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a unit that keeps nothing, they would be 0 / 0; who asks for them gets them."""
    torch.manual_seed(0)
    model = parametrised(kind)
    mask = pb.prune(model, (X, Y), "magnitude", sparsity=0.9)
    assert set(mask) == {"2.weight"}
    assert caplog.messages[0].startswith(f"{name} (20 elements) are not scored")
    mask.apply_(model)
    assert not model(X).isnan().any()
    chosen_ones = pb.prune(model, (X, Y), sparsity=0.5, prunable=[name, "2.weight"])
    assert set(chosen_ones) == {name, "2.weight"}


class Held(nn.Module):
    """Its weights are in a container."""

    def __init__(self, holder: nn.Module, of: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.holder, self.of, self.fc = holder, of, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.fc(x @ self.of(self.holder))


def bare() -> nn.Module:
    holder = nn.Module()
    holder.weight = nn.Parameter(torch.randn(4, 4))
    return holder


HOLDERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor], str]] = {
    "module": (bare, lambda m: m.weight, "holder.weight"),
    "list": (lambda: nn.ParameterList([torch.randn(4, 4)]), lambda m: m[0], "holder.0"),
    "dict": (lambda: nn.ParameterDict({"weight": torch.randn(4, 4)}), lambda m: m["weight"], "holder.weight"),
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_weights_in_containers_are_found(kind: str) -> None:
    make, of, name = HOLDERS[kind]
    assert traced_parameters(Held(make(), of), X).weights == (name,)


UNCLEAR: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, tuple[int, ...]]]] = {
    "product by hand": (lambda m, x: m.fc((x[:, None, :] * m.w).sum(-1)), {"w": (4, 4)}),
    "vecdot": (lambda m, x: m.fc(torch.linalg.vecdot(x[:, None], m.w)), {"w": (4, 4)}),
    "outer einsum": (lambda m, x: m.fc(torch.einsum("bi,oi->boi", x, m.w).sum(-1)), {"w": (4, 4)}),
    "changed in place": (lambda m, x: m.fc(F.linear(x, m.w.clone().add_(1.0))), {"w": (4, 4)}),
    "chosen or one": (lambda m, x: m.fc(F.linear(x, torch.where(m.w > 9, m.w, 1.0))), {"w": (4, 4)}),
    "filled": (lambda m, x: m.fc(F.linear(x, m.w.masked_fill(torch.eye(4) > 0, 3.0))), {"w": (4, 4)}),
    "sparse": (lambda m, x: m.fc(torch.sparse.mm(m.w.to_sparse(), x.T).T), {"w": (4, 4)}),
}


@pytest.mark.parametrize("kind", UNCLEAR)
def test_what_may_be_a_weight_is_named(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    of, shapes = UNCLEAR[kind]
    assert traced_parameters(Own(of, **shapes), X) == ((), ("w",))
    assert caplog.messages[0].startswith("w (16 elements) ")


def test_complex_weights_are_named() -> None:
    model = Own(lambda m, x: m.fc((x.to(torch.cfloat) @ m.w).abs()))
    model.w = nn.Parameter(torch.randn(4, 4, dtype=torch.cfloat))
    assert traced_parameters(model, X) == ((), ("w",))


def test_a_batch_that_does_not_fit_is_not_remembered() -> None:
    model = Own(lambda m, x: m.fc(x @ m.w), w=(4, 4))
    with pytest.raises(UserError):
        pb.prune(model, (torch.randn(6, 5), Y))
    assert set(pb.prune(model, (X, Y))) == {"w", "fc.weight"}


def test_batch_norm_without_statistics_is_followed() -> None:
    class Net(Own):
        def __init__(self) -> None:
            super().__init__(lambda m, x: m.fc(m.norm(x @ m.w)), w=(4, 4))
            self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    model = Net()
    mask = pb.prune(model, (X, Y), sparsity=0.2)
    assert set(mask) == {"w", "fc.weight"}
    assert pb.connectivity(model, mask, X[:1]).connected


@pytest.mark.parametrize(("groups", "transposed"), [(1, False), (2, False), (1, True), (2, True)])
def test_units_and_features_of_functional_convolutions(groups: int, transposed: bool) -> None:
    """As of torch's own layers, under the same mask."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(4, 6, 3, groups=groups)
    function = F.conv_transpose2d if transposed else F.conv2d
    model = Own(lambda m, x: function(x, m.w, groups=groups), w=tuple(layer.weight.shape))
    del model.fc
    keep = torch.ones(layer.weight.shape, dtype=torch.bool)
    keep[1] = False
    x = torch.randn(1, 4, 8, 8)
    (own,) = pb.connectivity(model, pb.Mask({"w": keep}), x).layers
    (usual,) = pb.connectivity(layer, pb.Mask({"weight": keep}), x).layers
    assert (own.units, own.dead_units, own.features, own.dead_features) == (
        *(usual.units, usual.dead_units, usual.features, usual.dead_features),
    )


def test_layers_at_the_root_are_kept_one_by_one() -> None:
    model = Own(lambda m, x: m.fc(x @ m.v @ m.w), v=(4, 4), w=(4, 4))
    traced = traced_parameters(model, X).weights
    assert prunable_names(model, traced, keep_first=True) == ["w", "fc.weight"]


def test_why_nothing_is_left_to_prune_is_told() -> None:
    with pytest.raises(UserError, match="nothing of Linear is left to prune but the layers that are kept whole"):
        prunable_names(nn.Linear(4, 3), (), keep_last=True)
    with pytest.raises(UserError, match="ReLU has no prunable weight"):
        prunable_names(nn.ReLU(), (), keep_last=True)


def test_weights_computed_in_another_way_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = parametrised("orthogonal")
    for _ in range(2):
        mask = pb.prune(model, (X, Y), sparsity=0.5)
        assert list(mask) == ["2.weight"]
    (warning,) = caplog.messages  # once
    assert warning.startswith("0.parametrizations.weight.original (20 elements) are not scored")
    assert "--prunable" in warning
    low_rank = Own(lambda m, x: m.fc(x) + F.linear(x, m.a @ m.b), a=(3, 2), b=(2, 4))
    assert traced_parameters(low_rank, X) == ((), ("a", "b"))
    assert caplog.messages[1].startswith("a, b (14 elements)")


def test_a_network_that_cannot_be_followed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Own):
        def forward(self, x: Tensor) -> Tensor:
            if not x.requires_grad and len(x) == 1:
                raise ValueError("one example is too few")
            return super().forward(x)

    model = Failing(lambda m, x: m.fc(x @ m.w), w=(4, 4))
    assert traced_parameters(model, X[:1]) == ((), ("w",))
    assert "w (16 elements) may be weights, but the network cannot be followed" in caplog.text


def test_bilinear_layers_and_tables_that_multiply() -> None:
    bilinear = nn.Bilinear(4, 4, 3)

    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = bilinear

        def forward(self, x: Tensor) -> Any:
            return self.layer(x, x)

    assert traced_parameters(Squared(), X).weights == ("layer.weight",)
    mask = pb.prune(Squared(), (X, Y), sparsity=0.5)
    assert mask.size == 48

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.fc = nn.Embedding(7, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.fc(self.table(x)).mean(1), self.table.weight)

    assert traced_parameters(Tied(), TOKENS) == (("table.weight",), ())


def test_usual_networks_are_not_run() -> None:
    class Loud(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("run")

    usual = Loud(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm(3), nn.LSTM(3, 4), nn.MultiheadAttention(4, 2))
    assert not candidates(usual)
    assert traced_parameters(usual, X) == ((), ())
    for name in ("resnet-20", "vgg-11-bn", "lstm-s", "wrn-16-8", "snip-it-mlp-5"):
        assert not candidates(pb.create_model(name, input_shape=(1, 32, 32), num_classes=10))


def test_units_and_features_of_weights_with_inputs_first() -> None:
    """Of 4 inputs and 5 units, the mask cuts an input and two units."""
    torch.manual_seed(0)
    keep = torch.ones(4, 5, dtype=torch.bool)
    keep[1], keep[:, 2:4] = False, False
    for turned in (False, True):

        def multiply(m: Any, x: Tensor, turned: bool = turned) -> Tensor:
            return m.last(F.linear(x, m.w) if turned else x @ m.w)  # type: ignore[no-any-return]

        model = Own(multiply, w=(5, 4) if turned else (4, 5))
        model.last = nn.Linear(5, 3)
        del model.fc
        found = pb.connectivity(model, pb.Mask({"w": keep.T if turned else keep}), X)
        (layer,) = found.layers
        assert (layer.units, layer.dead_units, layer.features, layer.dead_features) == (5, 2, 4, 1)


def test_flops_belong_to_the_weights_that_a_product_is_made_of() -> None:
    plain, computed = flops(parametrised("none"), X[:1]), flops(parametrised("weight norm"), X[:1])
    assert plain.by_weight["0.weight"] == computed.by_weight["0.parametrizations.weight.original1"] == 2 * 4 * 5
    assert plain.total == computed.total


def test_a_function_that_is_not_zero_at_zero_computes(caplog: pytest.LogCaptureFixture) -> None:
    assert traced_parameters(Own(lambda m, x: m.fc(F.linear(x, m.w.exp())), w=(4, 4)), X) == ((), ("w",))
    assert caplog.messages[0].startswith("w (16 elements) are not scored")
