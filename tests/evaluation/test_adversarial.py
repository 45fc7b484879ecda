"""Metrics of robustness, on images of bytes."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.attacks import Examples
from pai_bench.data import Split
from pai_bench.evaluation import Dense, evaluate_network, get_metric, measure
from pai_bench.evaluation.adversarial import PENALTIES, VerdictLinf, attacked, first_examples
from pai_bench.results import Store
from tests.report.records import record, stored


def images(size: int = 60, test: int = 50) -> pb.DataSet:
    """Grey images of which one half is brighter: two classes."""
    draw = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 2
        inputs = 90 + 12 * torch.randn(count, 1, 4, 4, generator=draw)
        inputs[labels == 0, :, :2] += 70
        inputs[labels == 1, :, 2:] += 70
        return Split(inputs.clamp(0, 255).byte(), labels)

    return pb.DataSet("halves", split(size), split(test))


class Halves(nn.Module):
    """The difference of the brightness of both halves, as a difference of logits."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.stack([x[:, :, :2].flatten(1).mean(1), x[:, :, 2:].flatten(1).mean(1)], 1)


def distances(data: pb.DataSet, norm: str, count: int) -> Tensor:
    """From the boundary, in units of [0, 1]: the gap of the halves, by the dual norm of ``(1/8, ..., -1/8, ...)``."""
    x = data.test.inputs[:count].double() / 255
    gap = (x[:, :, :2].flatten(1).mean(1) - x[:, :, 2:].flatten(1).mean(1)).abs()
    return gap / 2 if norm == "linf" else gap / (16 * (1 / 8) ** 2) ** 0.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_robust_accuracy_in_units_of_bytes(norm: str) -> None:
    """The normalisation of the data is a part of the network."""
    data, exact = images(), distances(images(), norm, 40)
    eps = float(exact.median()) + 1e-4
    (found,) = measure(Halves(), data, [f"verdict-{norm}:eps={eps!r}:n=40"]).values()
    assert found[""] == float((exact > eps).double().mean())
    assert 0 < found[""] < 1
    assert (found["clean"], found["examples"], found["constant"], found["warnings"]) == (1.0, 40.0, 0.0, 0.0)
    assert found["fgsm"] == found["pgd"] == found[""]
    assert found["seconds"] > 0
    logits = attacked(Halves(), data)(first_examples(data, 2).inputs)
    torch.testing.assert_close(logits, Halves()(data.normalised(data.test.inputs[:2])))


def test_minimal_norms_are_medians() -> None:
    data = images()
    found = measure(Halves(), data, ["minimal-l2:n=20", "minimal-linf:n=20"])
    for norm, near in (("l2", 0.01), ("linf", 2**-8 / 0.1)):
        exact, values = distances(data, norm, 20), found[f"minimal-{norm}:n=20"]
        assert float(exact.quantile(0.5)) <= values[""] <= float(exact.quantile(0.5)) * (1 + near)
        assert float(exact.mean()) <= values["mean"] <= float(exact.mean()) * (1 + near)
        assert (values["found"], values["clean"]) == (1.0, 1.0)


def test_what_is_wrong_has_a_norm_of_zero_and_what_is_not_found_an_infinite_one() -> None:
    data = images()
    wrong = replace(data, test=Split(data.test.inputs, 1 - data.test.targets))
    assert measure(Halves(), wrong, ["minimal-l2"])["minimal-l2"][""] == 0
    assert math.isnan(measure(Halves(), wrong, ["minimal-l2"])["minimal-l2"]["found"])
    constant = replace(data, test=Split(data.test.inputs, torch.zeros_like(data.test.targets)), num_classes=2)
    found = measure(Halves(0.0), constant, ["minimal-linf:n=5", "verdict-linf:eps=0.3"])
    assert found["minimal-linf:n=5"][""] == math.inf
    assert (found["minimal-linf:n=5"]["found"], found["minimal-linf:n=5"]["mean"]) == (0.0, math.inf)
    assert found["verdict-linf:eps=0.3"][""] == 1.0
    half = measure(Halves(0.0), data, ["verdict-linf:eps=0.3"])["verdict-linf:eps=0.3"]
    assert (half[""], half["constant"], half["warnings"]) == (0.5, 1.0, 0.0)


def test_the_attack_on_the_dense_network_counts_as_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as attacks on the network that happens to be the first one held against it."""
    clock = [0.0]

    def transferred(self: VerdictLinf, dense: Dense, data: pb.DataSet, examples: Examples) -> Tensor:
        clock[0] += 100
        return examples.inputs

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(VerdictLinf, "transferred", transferred)
    name = "verdict-linf:eps=0.1:n=10"
    found = measure(Halves(), images(), [name], Dense(Halves().eval()))[name]
    assert (found["seconds"], found["warning_seconds"]) == (0, 100)


class Rounded(Halves):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.round())


def test_the_dense_network_is_attacked_once_and_its_adversaries_tried() -> None:
    data, dense = images(), Dense(Halves().eval())
    name = "verdict-linf:eps=0.25:n=50"
    alone = measure(Rounded(), data, [name])[name]
    found = measure(Rounded(), data, [name], dense)[name]
    assert found[""] == alone[""]
    assert found["warnings"] >= alone["warnings"]
    (kept,) = dense.kept.values()
    measure(Rounded(), data, [name], dense)
    assert [id(value) for value in dense.kept.values()] == [id(kept)]


def test_warnings_are_stored_as_notes() -> None:
    one = record("snip", 0.9, 0, 0.9)
    store = stored("r", [one])
    evaluate_network(store, one.identity, Rounded(), images(), ["verdict-linf:eps=0.25"])
    kept = Store("r").read_evaluation(one.identity)
    assert kept is not None
    measured = kept.metrics["verdict-linf:eps=0.25"]
    assert "zero-gradients" in measured.notes
    assert measured.values["warnings"] == len(measured.notes)
    rows = pb.read_results("r")
    assert rows["verdict-linf:eps=0.25"].item() == measured.values[""]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("verdict-linf", "verdict-linf needs the option eps: verdict-linf:eps=VALUE"),
        ("verdict-linf:eps=0", r"verdict-linf: eps=0 is outside \(0, 1\]: inputs are in \[0, 1\]"),
        ("verdict-linf:eps=1.5", r"verdict-linf: eps=1.5 is outside \(0, 1\]"),
        ("verdict-l2:eps=-1", r"verdict-l2: eps=-1 is outside \(0, inf\)"),
        ("verdict-linf:eps=0.1:n=0", "verdict-linf: n=0 must be at least 1"),
        ("verdict-linf:eps=0.1:effort=much", "effort=much is not one of quick, full"),
        ("verdict-linf:eps=0.1:n=51", "metric verdict-linf:.*: n=51 is more than the 50 test examples of halves"),
        ("verdict-l1:eps=0.1", "unknown metric 'verdict-l1'"),
    ],
)
def test_mistakes(name: str, message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        measure(Halves(), images(), [name])


def test_data_without_a_range_are_refused() -> None:
    data = images()
    train, test = (Split(part.inputs.float(), part.targets) for part in (data.train, data.test))
    floats = pb.DataSet("floats", train, test)
    with pytest.raises(pb.UserError, match=r"attacks need images of bytes, .*: the inputs of floats are float32"):
        measure(Halves(), floats, ["minimal-l2"])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_of_a_test_set_in_order_of_its_classes_all_classes_are_attacked(order: list[int]) -> None:
    """As of image files, by folder: the first ones would be of one class."""
    labels = torch.tensor(order).repeat_interleave(torch.tensor([5, 3, 4]))
    test = Split(torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(12, 1, 2, 2), labels)
    data = pb.DataSet("ordered", test, test)
    found = first_examples(data, 6)
    assert found.labels.tolist() == [*order, *order]
    places = (found.inputs[:, 0, 0, 0] * 255).round().long()
    assert torch.equal(labels[places], found.labels)
    assert torch.equal(found.places, torch.arange(6))
    assert first_examples(data, 12).labels.bincount().tolist() == labels.bincount().tolist()
    mixed = pb.DataSet("mixed", test, Split(test.inputs, labels.roll(1)))
    assert torch.equal(first_examples(mixed, 6).labels, labels.roll(1)[:6])


def test_a_full_effort_is_larger() -> None:
    _, quick = get_metric("minimal-l2")
    _, full = get_metric("minimal-l2:effort=full")
    assert [len(one.examples(images(4, 1200))) for one in (quick, full)] == [500, 1000]  # type: ignore[attr-defined]
    assert [PENALTIES[effort].steps for effort in ("quick", "full")] == [200, 1000]
