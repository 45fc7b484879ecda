"""Every built-in criterion against an independent derivation in float64, on networks of every kind."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.scoring import prunable_parameters

Example = tuple[nn.Module, pb.Batch]
STEP = 1e-5


def scoring_mode(model: nn.Module, bn: str) -> nn.Module:
    """A copy of `model` with dropout off and batch norm in the mode `bn`."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        module.training = bn == "train" and isinstance(module, nn.BatchNorm2d)
    return model


def loss_of(model: nn.Module, batch: pb.Batch, temperature: float = 1.0) -> Tensor:
    return F.cross_entropy(model(batch.inputs) / temperature, batch.targets)


def some_positions(weight: Tensor) -> list[int]:
    """At most eight flat positions of a weight."""
    return list(range(0, weight.numel(), max(1, weight.numel() // 8)))


@pytest.mark.parametrize("bn", ["eval", "train"])
def test_snip_is_the_sensitivity_to_the_connection_indicator(network: Example, bn: str) -> None:
    """|dL/dc| at c = 1, by central differences in c, where the weight is c * w."""
    model, batch = network
    scores = pb.get_criterion("snip", bn=bn).score(model, batch)
    assert float(sum(s.sum() for s in scores.values())) == pytest.approx(1)
    twin = scoring_mode(model, bn)
    derivatives, ours = [], []
    with torch.no_grad():
        for name, weight in prunable_parameters(twin).items():
            flat = weight.view(-1)
            for i in some_positions(weight):
                original = flat[i].item()
                losses = []
                for c in (1 + STEP, 1 - STEP):
                    flat[i] = c * original
                    losses.append(loss_of(twin, batch).item())
                flat[i] = original
                derivatives.append(abs(losses[0] - losses[1]) / (2 * STEP))
                ours.append(scores[name].view(-1)[i].item())
    # the common factor is the sum over all connections; it is one number for the whole network
    factor = sum(derivatives) / sum(ours)
    assert torch.tensor(ours) * factor == pytest.approx(torch.tensor(derivatives), rel=1e-5, abs=1e-9)


def test_snip_normalises_by_the_sum_over_all_layers() -> None:
    """L = log(1 + exp(w0 - w1)) for input 1 and class 1: dL/dw = (p, -p), p = sigmoid(w0 - w1)."""
    model = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0], [-1.0]]))
    scores = pb.get_criterion("snip").score(model, pb.Batch(torch.ones(1, 1).double(), torch.tensor([1])))
    assert scores["weight"].flatten().tolist() == pytest.approx([2 / 3, 1 / 3])


def test_snip_it_divides_by_the_loss(network: Example) -> None:
    model, batch = network
    snip, snip_it = (pb.get_criterion(name).score(model, batch) for name in ("snip", "snip-it"))
    loss = loss_of(scoring_mode(model, "eval"), batch).item()
    total = float(sum(s.sum() for s in snip_it.values()))  # sum |w * g| / L
    for name, score in snip_it.items():
        assert score / total == pytest.approx(snip[name], rel=1e-9)
    twin = scoring_mode(model, "eval")
    weight = next(iter(prunable_parameters(twin).values()))
    (gradient,) = torch.autograd.grad(loss_of(twin, batch), weight)
    first = next(iter(snip_it.values()))
    assert first == pytest.approx((weight.detach() * gradient / loss).abs(), rel=1e-9)


@pytest.mark.parametrize("bn", ["eval", "train"])
@pytest.mark.parametrize("temperature", [200.0, 1.0])
def test_grasp_is_the_weight_times_the_hessian_gradient_product(network: Example, bn: str, temperature: float) -> None:
    """W * Hg, with Hg from central differences of the gradient along the gradient."""
    model, batch = network
    criterion = pb.get_criterion("grasp", bn=bn, temperature=temperature)
    scores = criterion.score(model, batch)
    twin = scoring_mode(model, bn)
    parameters = list(prunable_parameters(twin).values())

    def gradient() -> list[Tensor]:
        return list(torch.autograd.grad(loss_of(twin, batch, temperature), parameters))

    g = gradient()
    scale = STEP / torch.cat([t.flatten() for t in g]).norm().item()
    ends = []
    for sign in (1, -2):  # forth by one step, then back by two
        with torch.no_grad():
            for weight, direction in zip(parameters, g, strict=True):
                weight.add_(direction, alpha=sign * scale)
        ends.append(gradient())
    for weight, ahead, behind, score in zip(prunable_parameters(model).values(), *ends, scores.values(), strict=True):
        expected = weight.detach() * (ahead - behind) / (2 * scale)
        assert score == pytest.approx(expected, rel=1e-4, abs=1e-6 * float(expected.abs().max()))


def test_grasp_removes_what_the_gradient_norm_needs_least(network: Example) -> None:
    """d|g|^2/dw . w = 2 w * Hg: shrinking the highest-scored weight costs gradient norm."""
    model, batch = network
    scores = pb.get_criterion("grasp:temperature=1:bn=eval").score(model, batch)
    twin = scoring_mode(model, "eval")
    parameters = prunable_parameters(twin)

    def squared_norm() -> float:
        return sum(float((g**2).sum()) for g in torch.autograd.grad(loss_of(twin, batch), list(parameters.values())))

    name, score = max(scores.items(), key=lambda pair: pair[1].max())
    position = int(score.argmax())
    before = squared_norm()
    with torch.no_grad():
        parameters[name].view(-1)[position] *= 1 - STEP
    assert (before - squared_norm()) / STEP == pytest.approx(2 * score.max().item(), rel=1e-3)


def test_magnitude(network: Example) -> None:
    model, batch = network
    scores = pb.get_criterion("magnitude").score(model, batch)
    for name, weight in prunable_parameters(model).items():
        assert scores[name].flatten().tolist() == [abs(value) for value in weight.flatten().tolist()]


def test_random_is_uniform_and_independent_of_the_weights() -> None:
    batch = pb.Batch(torch.ones(1, 100), torch.tensor([0]))
    scores = pb.get_criterion("random").score(nn.Linear(100, 1000), batch)["weight"].flatten()
    again = pb.get_criterion("random").score(nn.Linear(100, 1000), batch)["weight"].flatten()
    assert torch.equal(scores, again)
    counts = torch.histc(scores.float(), bins=10, min=0, max=1)
    # 100,000 draws: each bin holds 10,000 with a standard deviation of 95
    assert (counts - 10_000).abs().max() < 5 * 95


def test_synflow_closed_form_on_a_bias_free_network() -> None:
    """Score of w_ij = |w_ij| * (flow into j from the all-ones input) * (flow from i to all outputs)."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5, bias=False),
        nn.ReLU(),
        nn.Linear(5, 6, bias=False),
        nn.ReLU(),
        nn.Linear(6, 2, bias=False),
    )
    batch = pb.Batch(torch.randn(3, 4), torch.tensor([0, 1, 0]))
    scores = pb.get_criterion("synflow").score(model, batch)
    absolute = [model.get_parameter(f"{i}.weight").detach().double().abs() for i in (0, 2, 4)]
    for layer, (name, score) in enumerate(scores.items()):
        into, out_of = torch.ones(4).double(), torch.ones(2).double()
        for weight in absolute[:layer]:
            into = weight @ into
        for weight in absolute[:layer:-1]:
            out_of = out_of @ weight
        assert name == f"{2 * layer}.weight"
        assert score.dtype == torch.float64
        assert score == pytest.approx(absolute[layer] * out_of[:, None] * into[None, :], rel=1e-12)
    sums = [float(s.sum()) for s in scores.values()]
    assert sums == pytest.approx([sums[0]] * 3)  # flow is conserved from layer to layer


def test_synflow_ignores_the_sign_of_weights_the_data_and_the_statistics_of_layer_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 2))
    mirrored = copy.deepcopy(model)
    for parameter in mirrored.parameters():
        parameter.data.neg_()
    expected = pb.get_criterion("synflow").score(model, pb.Batch(torch.zeros(1, 4), torch.tensor([0])))
    found = pb.get_criterion("synflow").score(mirrored, pb.Batch(torch.randn(3, 4), torch.tensor([0, 1, 0])))
    for name, score in expected.items():
        assert torch.equal(score, found[name])
    w, v = (model.get_parameter(f"{i}.weight").detach().double().abs() for i in (0, 3))
    flow_out = v.sum(0)  # gamma is 1, so the layer norm passes its input on
    assert expected["0.weight"] == pytest.approx(w * flow_out[:, None], rel=1e-12)


class Branches(nn.Module):
    """Layers with a shortcut around each: no chain."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def test_synflow_names_the_layer_that_overflows() -> None:
    # the input 1 grows by 2e38 in each layer; the float64 limit 1.8e308 is passed in the ninth
    deep = Branches(10)
    for weight in deep.parameters():
        nn.init.constant_(weight, 1e38)
    with pytest.raises(pb.UserError, match=r"synflow: the flow overflows float64 in 'layers.8'"):
        pb.get_criterion("synflow").score(deep, pb.Batch(torch.ones(1, 2), torch.tensor([0])))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_synflow_is_exact_on_a_chain_of_a_thousand_layers(size: float) -> None:
    """Against exact products of logarithms: the chain has one unit per layer but for the first and last."""
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(3, 1, bias=False)]
    layers += [layer for _ in range(998) for layer in (nn.Linear(1, 1, bias=False), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(size * (torch.rand(weight.shape, generator=generator) + 0.5))
    batch = pb.Batch(torch.ones(1, 3), torch.tensor([0]))
    scores = pb.get_criterion("synflow").score(model, batch)
    sums = torch.stack([score.sum() for score in scores.values()])
    assert sums.isfinite().all()
    assert (sums > 0).all()
    assert sums / sums[0] == pytest.approx(torch.ones(1000, dtype=torch.float64), rel=1e-9)
    for name in ("0.weight", f"{len(layers)}.weight"):  # inside a layer, the flow is divided like the weights
        values = model.get_parameter(name).detach().double()
        assert scores[name] / sums[0] == pytest.approx(values / values.sum(), rel=1e-9)
    mask = pb.prune(model, batch, "synflow", 0.002, schedule="exponential:steps=3")
    assert mask.kept == round(0.998 * 1003)
    assert all(kept >= 1 for kept in mask.kept_per_layer().values())


def test_synflow_scales_what_layers_add_along_a_rescaled_chain() -> None:
    """A bias deep in a chain against the same computation in Python's unbounded integers."""
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(400))).double()
    for i, parameter in enumerate(model.parameters()):  # weight and bias by turns
        nn.init.constant_(parameter, 8.0 if i % 2 == 0 else 0.0)
    layer = model[300]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.bias.fill_(2.0**898)  # the flow there is 8**301 = 2**903
    scores = pb.get_criterion("synflow").score(model, pb.Batch(torch.ones(1, 1), torch.tensor([0])))
    before, after = float(scores["0.weight"]), float(scores["399.weight"])
    # dR/dw * w is the flow from the input, 2**903, in layer 0, and with the bias 2**903 + 2**898 behind it
    assert after / before == pytest.approx(1 + 2.0**-5, rel=1e-12)


def test_synflow_on_tokens_and_on_outputs_that_are_no_tensor() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.fc = nn.Linear(4, 2, bias=False)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.fc(self.embedding(x).mean(1)), "tokens": x}

    model = Tokens()
    batch = pb.Batch(torch.randint(7, (3, 5)), torch.tensor([0, 1, 0]), loss=lambda out, y: out["logits"].mean())
    scores = pb.get_criterion("synflow").score(model, batch)
    assert scores["fc.weight"] == pytest.approx(model.fc.weight.detach().double().abs(), rel=1e-12)


def test_a_bias_behind_a_flow_that_is_all_but_gone() -> None:
    """400 layers of 2**-8, then w = b = 1: the flow is 2**-3200 and then 1, 2, 3 times what the biases have put in."""
    model = nn.Sequential(*(nn.Linear(1, 1, bias=i >= 400) for i in range(404))).double()
    for i, layer in enumerate(model):
        for parameter in layer.parameters():
            nn.init.constant_(parameter, 2.0**-8 if i < 400 else 1.0)
    scores = pb.get_criterion("synflow").score(model, pb.Batch(torch.ones(1, 1), torch.tensor([0])))
    last = [float(scores[f"{i}.weight"]) for i in range(400, 404)]
    assert last[1:] == pytest.approx([last[1], 2 * last[1], 3 * last[1]])
    assert last[1] > 0
    assert last[0] < 1e-300 * last[1]


def test_synflow_names_the_layer_that_overflows_on_a_rescaled_chain() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(300))).double()
    for i, parameter in enumerate(model.parameters()):
        nn.init.constant_(parameter, 1e308 if i == 249 else 2.0**8)
    with pytest.raises(pb.UserError, match="synflow: the flow overflows float64 in '249'"):
        pb.get_criterion("synflow").score(model, pb.Batch(torch.ones(1, 1), torch.tensor([0])))


def test_synflow_says_which_layer_the_batch_does_not_fit() -> None:
    for model in (nn.Sequential(nn.Linear(3, 2), nn.ReLU()), nn.Sequential(nn.Linear(3, 2), nn.GELU())):
        with pytest.raises(pb.UserError, match=r"synflow: the batch.*does not fit the model in '0', a Linear"):
            pb.get_criterion("synflow").score(model, pb.Batch(torch.ones(1, 4), torch.tensor([0])))


def test_synflow_has_one_mode_of_batch_norm() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    batch = pb.Batch(torch.ones(2, 1, 3, 3), torch.tensor([0, 1]))
    scores = [pb.get_criterion("synflow", bn=bn).score(model, batch) for bn in ("eval", "train")]
    assert all(torch.equal(scores[0][name], scores[1][name]) for name in scores[0])


def test_synflow_through_instance_norm() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.InstanceNorm2d(2, affine=True), nn.Flatten())
    scores = pb.get_criterion("synflow").score(model, pb.Batch(torch.ones(1, 1, 3, 3), torch.tensor([0])))
    assert scores["0.weight"] == pytest.approx(4 * model.get_parameter("0.weight").detach().double().abs(), rel=1e-12)
