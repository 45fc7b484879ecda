"""SynFlow where its assumption, that flow is conserved, would fail: mended, refused, or named."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.experiment.resolve import resolve
from pai_bench.scoring import CriterionError, Scores

BATCH = pb.Batch(torch.randn(4, 3, 6, 6), torch.arange(4) % 2)


@pytest.fixture(autouse=True)
def _unsaid() -> None:
    from pai_criteria.synflow import warn

    warn.cache_clear()


class Net(nn.Module):
    """Two convolutions with something between them, and a head."""

    def __init__(self, between: Callable[[Tensor], Any], end: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 5, 3, bias=False), nn.Conv2d(5, 4, 3, bias=False)
        self.head = nn.Linear(4, 2, bias=False)
        self.between, self.end = between, end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.head(self.b(self.between(self.a(x)).relu()).relu().mean((2, 3))))


def scores(model: nn.Module, criterion: str = "synflow") -> Scores:
    return pb.get_criterion(criterion).score(model, BATCH)


def totals(found: Scores) -> list[float]:
    return [float(score.sum()) for score in found.values()]


def test_flow_is_conserved_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    first, *others = totals(scores(Net(lambda x: x)))
    assert others == pytest.approx([first] * 2)
    for name in ("resnet-20", "vgg-11-bn", "wrn-16-8"):
        model = pb.create_model(name, input_shape=(3, 16, 16), num_classes=10, seed=0)
        pb.get_criterion("synflow").score(model, pb.Batch(torch.randn(2, 3, 16, 16), torch.arange(2)))
    assert not caplog.messages


def test_where_nothing_flows_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    model = Net(lambda x: x)
    nn.init.zeros_(model.head.weight)
    assert totals(scores(model)) == [0, 0, 0]
    assert not caplog.messages


class BatchNorm(nn.Module):
    def __init__(self, of: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight, self.bias, self.of = nn.Parameter(torch.arange(-2.0, 3.0)), nn.Parameter(torch.zeros(5)), of

    def forward(self, x: Tensor) -> Tensor:
        return self.of(x, self.weight, self.bias)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(5, track_running_stats=False),
        BatchNorm(lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, True)),
        BatchNorm(lambda x, w, b: F.batch_norm(x, torch.zeros(5), torch.ones(5), w, b, training=True)),
        BatchNorm(
            lambda x, w, b: F.batch_norm(x, running_mean=None, running_var=None, weight=w, bias=b, training=True)
        ),
        BatchNorm(lambda x, w, b: F.batch_norm(x, None, None, w, training=True)),
        BatchNorm(lambda x, w, b: F.instance_norm(x, weight=w, bias=b)),
        BatchNorm(lambda x, w, b: F.instance_norm(x, None, None, w)),
        BatchNorm(lambda x, w, b: F.instance_norm(x, None, None, w, b)),
    ],
)
def test_batch_norm_by_the_examples_own_statistics_scales(norm: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    def scaled(x: Tensor) -> Tensor:
        return x * norm.weight.abs().to(x.dtype).view(-1, 1, 1)  # type: ignore[operator]

    found = scores(Net(norm))
    first, *others = totals(found)
    assert others == pytest.approx([first] * 2)
    for name, score in scores(Net(scaled)).items():
        torch.testing.assert_close(found[name], score)
    assert not caplog.messages


ENDS: list[Callable[[Tensor], Any]] = [
    nn.Softmax(1),
    nn.LogSoftmax(-1),
    lambda x: F.softmax(x, 1),
    lambda x: F.log_softmax(input=x, dim=1),
    lambda x: x.softmax(-1),
    lambda x: torch.log_softmax(x, 1),
    lambda x: (x.softmax(1),),
    lambda x: x.softmax(1).view(-1),
    lambda x: x.softmax(1).unsqueeze(0)[0].T,
]


@pytest.mark.parametrize("end", ENDS)
def test_a_softmax_at_the_end_is_left_out_with_a_word(
    end: Callable[[Tensor], Any], caplog: pytest.LogCaptureFixture
) -> None:
    found, plain = scores(Net(lambda x: x, end)), scores(Net(lambda x: x))
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert caplog.messages == ["synflow: the softmax at the end of Net is left out: its outputs sum to one"]
    scores(Net(lambda x: x, end))
    assert len(caplog.messages) == 1
    other = nn.Sequential(nn.Flatten(), nn.Linear(108, 2), nn.Softmax(1))
    scores(other)
    scores(nn.Sequential(nn.Flatten(), nn.Linear(108, 3), nn.ReLU(), nn.Linear(3, 2), nn.Softmax(1)))
    assert [text.partition(" is left")[0] for text in caplog.messages[1:]] == [
        "synflow: the softmax at the end of Sequential"
    ] * 2


def test_of_a_softmax_at_the_end_only_those_outputs_count_that_are_returned() -> None:
    found, plain = scores(Net(lambda x: x, lambda x: x.softmax(1)[:, 1:])), scores(Net(lambda x: x, lambda x: x[:, 1:]))
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert not torch.equal(found["b.weight"], scores(Net(lambda x: x))["b.weight"])


@pytest.mark.parametrize("view", [lambda y: y.view(-1, 1), lambda y: y[:, :1], lambda y: y.squeeze()])
def test_a_softmax_of_outputs_that_begin_in_the_middle_of_their_memory(view: Callable[[Tensor], Tensor]) -> None:
    found = scores(Net(lambda x: x, lambda x: view(x[:, 1:].softmax(1))))
    plain = scores(Net(lambda x: x, lambda x: view(x[:, 1:])))
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert found["b.weight"].any()


def test_a_softmax_in_the_middle_is_none_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    scores(Net(lambda x: x.softmax(1)))
    assert "left out" not in caplog.text
    assert "a.weight" in caplog.text


def by_hand(x: Tensor) -> Tensor:
    mean, variance = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (by_hand, "negative in a.weight; behind them a normalisation"),
        (lambda x: x / x.pow(2).mean().sqrt(), "negative in a.weight"),
        (lambda x: x * x, "more than R in a.weight; products"),
        (lambda x: x.add(1e4).sigmoid(), "nothing of R in a.weight"),
    ],
)
def test_the_layer_is_named_whose_flow_is_not_conserved(
    between: Callable[[Tensor], Tensor], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    pb.prune(Net(between), BATCH, "synflow", 0.5, schedule="exponential:steps=3")
    (message,) = [text for text in caplog.messages if text.startswith("synflow: flow is not conserved in Net: ")]
    assert said in message
    assert "b.weight" not in message


class Named(NamedTuple):
    logits: Tensor
    hidden: Tensor


@dataclass
class Outputs:
    logits: Tensor
    hidden: Tensor


SEVERAL: list[tuple[Callable[[Tensor], Any], str]] = [
    (lambda x: (x, 2 * x), "0"),
    (lambda x: {"logits": x, "hidden": 2 * x}, "logits"),
    (lambda x: Outputs(x, 2 * x), "logits"),
    (lambda x: [x, (x, x)], "0"),
    (lambda x: Named(x, 2 * x), "logits"),
    (lambda x: (x, torch.arange(3)), ""),  # only one of floats
]


@pytest.mark.parametrize(("end", "name"), SEVERAL)
def test_of_several_outputs_one_says_which_counts(end: Callable[[Tensor], Any], name: str) -> None:
    model, plain = Net(lambda x: x, end), scores(Net(lambda x: x))
    if name:
        with pytest.raises(CriterionError, match=f"say which counts, as in synflow:output={name}"):
            scores(model)
    found = scores(model, f"synflow:output={name}" if name else "synflow")
    assert all(torch.equal(found[layer], plain[layer]) for layer in plain)


def test_an_output_that_is_not_there() -> None:
    with pytest.raises(CriterionError, match="synflow: Net returns nothing that flow could be measured by"):
        scores(Net(lambda x: x, lambda x: (x > 0, x.argmax())))
    only = scores(Net(lambda x: x), "synflow:output=0")
    assert all(torch.equal(only[layer], plain) for layer, plain in scores(Net(lambda x: x)).items())
    with pytest.raises(CriterionError, match="Net has no output 'last', but 0, 1"):
        scores(Net(lambda x: x, lambda x: (x, x)), "synflow:output=last")
    with pytest.raises(CriterionError, match="the output '1' of Net is not one tensor of floats"):
        scores(Net(lambda x: x, lambda x: (x, (x, x))), "synflow:output=1")


def test_the_option_is_left_out_of_identities() -> None:
    sweep = pb.Sweep(criteria=["synflow"], sparsities=[0.5], seeds=1)
    (_, trial) = resolve(sweep).trials
    assert "output" not in dict(trial.configuration()["criterion"]["options"])


def test_statistics_and_scales_by_hand() -> None:
    """Every parameter and buffer by its absolute value: W = [[1, -2], [3, 1]] brings 3 and 4 from two ones.

    (3 - |-1|) / 2 = 1 and (4 - 2) / 2 = 1, times |gamma| = 3, 2, plus |beta| = 0.5: 3.5 and 2.5 meet v = [2, 1].
    """
    norm = nn.BatchNorm1d(2)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), norm, nn.ReLU(), nn.Linear(2, 1, bias=False)).double().eval()
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.tensor([[1.0, -2.0], [3.0, 1.0]]))
        model.get_parameter("3.weight").copy_(torch.tensor([[2.0, -1.0]]))
        norm.weight.copy_(torch.tensor([-3.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.5, -0.5]))
        model.get_buffer("1.running_mean").copy_(torch.tensor([-1.0, 2.0]))
        model.get_buffer("1.running_var").fill_(4 - norm.eps)
    found = pb.get_criterion("synflow").score(model, pb.Batch(torch.zeros(1, 2), torch.tensor([0])))
    # |w| gamma / 2 v: the first row times 3 / 2 * 2, the second times 2 / 2 * 1
    assert found["0.weight"].flatten().tolist() == pytest.approx([3, 6, 3, 1], rel=1e-12)
    assert found["3.weight"].flatten().tolist() == pytest.approx([7, 2.5], rel=1e-12)


@pytest.mark.parametrize("norm", [nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.GroupNorm(2, 2), nn.RMSNorm(2)])
def test_normalisation_of_an_example_scales_by_gamma(norm: nn.Module) -> None:
    """W brings 3 and 4 from two ones, |gamma| = 3, 2 makes 9 and 8 of them, and v = [2, 1] is behind it."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), norm, nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.tensor([[1.0, -2.0], [3.0, 1.0]]))
        model.get_parameter("1.weight").copy_(torch.tensor([-3.0, 2.0]))
        model.get_parameter("2.weight").copy_(torch.tensor([[2.0, -1.0]]))
    found = pb.get_criterion("synflow").score(model, pb.Batch(torch.zeros(1, 2), torch.tensor([0])))
    assert found["0.weight"].flatten().tolist() == pytest.approx([6, 12, 6, 2], rel=1e-12)
    assert found["2.weight"].flatten().tolist() == pytest.approx([18, 8], rel=1e-12)


def narrow(layers: int) -> nn.Sequential:
    """A chain of one unit a layer, which multiplies by 8: it is rescaled from the hundredth layer on."""
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(layers))).double()
    for i, parameter in enumerate(model.parameters()):  # weight and bias by turns
        nn.init.constant_(parameter, 8.0 if i % 2 == 0 else 0.0)
    return model


def of_first_and_last(model: nn.Sequential) -> tuple[float, float]:
    found = list(pb.get_criterion("synflow").score(model, pb.Batch(torch.ones(1, 1), torch.tensor([0]))).values())
    return float(found[0].sum()), float(found[-1].sum())


def test_a_bias_with_a_zero_is_scaled_along_a_rescaled_chain() -> None:
    """Two units in the middle of it: the flow is 8**301 = 2**903 in both, and 2**898 is added to one of them."""
    wide, back = nn.Linear(1, 2).double(), nn.Linear(2, 1, bias=False).double()
    for weight in (wide.weight, back.weight):
        nn.init.constant_(weight, 8.0)
    with torch.no_grad():
        wide.bias.copy_(torch.tensor([0.0, 2.0**898], dtype=torch.float64))
    first, last = of_first_and_last(nn.Sequential(*narrow(300), wide, back, *narrow(98)))
    assert last / first == pytest.approx(1 + 2.0**-6, rel=1e-12)  # of 2 * 2**903, 2**898 is 2**-6


def test_a_running_mean_is_scaled_along_a_rescaled_chain() -> None:
    """The flow there is 8**301 = 2**903, of which batch norm takes 2**898 away."""
    norm = nn.BatchNorm1d(1).double()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.fill_(-(2.0**898))
    norm.running_var.fill_(1 - norm.eps)
    first, last = of_first_and_last(nn.Sequential(*narrow(301), norm, *narrow(99)))
    assert last / first == pytest.approx(1 - 2.0**-5, rel=1e-12)


@pytest.mark.parametrize(
    ("flows", "said"),
    [
        ([1 + 0.9e-6, 0, 0, 0], None),
        ([1 + 1.1e-6, 0, 0, 0], "products of activations bring more to the outputs than goes in"),
        ([1, 0, 0, -2e-7], None),  # of four weights, a quarter of a millionth each
        ([1, 0, 0, -3e-7], "a normalisation or the like takes the flow away"),
        ([2e-12, 0, 0, 0], None),
        ([0.5e-12, 0, 0, 0], "no path lies behind them, or a saturated function"),
        ([0, 0, 0, 0], "no path lies behind them, or a saturated function"),
        ([1e-3, 0, 0, -1e-3], "a normalisation or the like takes the flow away"),  # and not said twice
    ],
)
def test_how_much_a_flow_may_be_off(flows: list[float], said: str | None, caplog: pytest.LogCaptureFixture) -> None:
    from pai_criteria.synflow import check_conservation

    parts = {name: torch.tensor(flows, dtype=torch.float64) for name in "abcde"}
    check_conservation(parts, torch.tensor(1.0), nn.Linear(1, 1))
    assert len(caplog.messages) == (said is not None)
    for message in caplog.messages:
        assert message.startswith("synflow: flow is not conserved in Linear: ")
        assert said is not None
        assert said in message.partition(" in a, b, c and 2 more; ")[2]
    check_conservation(parts, torch.tensor(1.0), nn.Linear(1, 1))  # once for networks of one form
    assert len(caplog.messages) == (said is not None)
    check_conservation({"a": parts["a"]}, torch.tensor(1.0), nn.Linear(1, 2))
    assert len(caplog.messages) == 2 * (said is not None)
    assert said is None or "more;" not in caplog.messages[-1]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("function", [F.batch_norm, F.instance_norm])
def test_functions_that_normalise_by_the_example_scale_by_gamma(function: Callable[..., Tensor], named: bool) -> None:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.gamma = nn.Linear(2, 6, bias=False), nn.Parameter(torch.tensor([-3.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            maps = self.a(x).view(-1, 2, 3)
            if not named:
                return function(maps, None, None, self.gamma, None, True).sum(2)
            rest = {"training": True} if function is F.batch_norm else {}
            mean_and_variance = () if function is F.instance_norm else (None, None)
            return function(maps, *mean_and_variance, weight=self.gamma, **rest).sum(2)

    called = Called()
    with torch.no_grad():
        called.a.weight.copy_(torch.tensor([[1.0, -2.0], [1.0, 1.0], [0.0, 1.0], [2.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))
    found = pb.get_criterion("synflow").score(called, pb.Batch(torch.zeros(1, 2), torch.tensor([0])))
    assert found["a.weight"].tolist() == [[3, 6], [3, 3], [0, 3], [4, 2], [2, 0], [2, 2]]


@pytest.mark.parametrize(
    ("mean", "variance", "training", "uses"),
    [(True, True, False, True), (True, True, True, False), (False, True, False, False), (True, False, False, False)],
)
def test_which_batch_norm_has_statistics(mean: bool, variance: bool, training: bool, uses: bool) -> None:
    from pai_criteria.synflow import has_statistics

    x, one = torch.zeros(2), torch.ones(2)
    assert has_statistics(x, one, one)
    first, second = (one if there else None for there in (mean, variance))
    assert has_statistics(x, first, second, None, None, training) == uses
    assert has_statistics(x, running_mean=first, running_var=second, training=training) == uses


def test_what_a_chain_is() -> None:
    from pai_criteria.synflow import chain

    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    relu = nn.ReLU()
    nested = nn.Sequential(one, nn.Sequential(relu, other))
    assert chain(nested, "") == [("0", one), ("1.0", relu), ("1.1", other)]
    assert chain(other, "last") == [("last", other)]
    assert chain(nn.Sequential(one, nn.Tanh()), "") is None
    assert chain(nn.Sequential(one, nn.ReLU(), one), "") is None  # a module that stands twice is named once
    assert chain(type("Mine", (nn.Sequential,), {})(one), "") is None
    other.register_forward_pre_hook(lambda _module, _inputs: None)
    assert chain(nested, "") is None
    hooked = nn.Sequential(nn.ReLU())
    hooked.register_forward_hook(lambda _module, _inputs, _output: None)
    assert chain(hooked, "") is None
    patched = nn.ReLU()
    patched.forward = torch.tanh  # type: ignore[method-assign]
    assert chain(patched, "") is None


def test_the_layer_that_overflows_is_found_and_nothing_left_behind() -> None:
    from pai_criteria.synflow import overflowing_layer

    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1e30)
    assert overflowing_layer(model, torch.ones(1, 1)) == "1"
    assert overflowing_layer(model, torch.zeros(1, 1)) == "1"  # by its biases
    assert overflowing_layer(nn.Sequential(nn.ReLU()), torch.ones(1)) == "the output"
    assert not any(part._forward_hooks for part in model.modules())


@pytest.mark.parametrize(("names", "shown"), [("abc", "a, b, c;"), ("abcd", "a, b, c and 1 more;")])
def test_of_layers_where_flow_is_lost_three_are_named(names: str, shown: str, caplog: pytest.LogCaptureFixture) -> None:
    from pai_criteria.synflow import check_conservation

    check_conservation({name: torch.zeros(2) for name in names}, torch.tensor(1.0), nn.Linear(2, len(names)))
    assert f"nothing of R in {shown}" in caplog.messages[0]


def test_an_error_that_is_none_of_the_inputs_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from pai_criteria import synflow

    def fails(*_given: object) -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(synflow, "flow_along", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        scores(nn.Sequential(nn.Flatten(), nn.Linear(108, 2)))
