"""Metrics: what the built-in ones are, one of another package, and what is stored of them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.data.labels import LabelNoise
from pai_bench.evaluation import evaluate_network, get_metric, measure
from pai_bench.results import Measured, Store, TrialMetrics, UnstorableError
from pai_bench.support.registry import METRICS, Plugin, metric
from tests.report.records import fields_of, record, stored

SHAPE, CLASSES = (1, 4, 4), 3


def data() -> pb.DataSet:
    draw = torch.Generator().manual_seed(0)
    train, test = (
        Split(torch.randn(size, *SHAPE, generator=draw), torch.randint(CLASSES, (size,), generator=draw))
        for size in (30, 20)
    )
    return pb.DataSet("small", train, test, num_classes=CLASSES)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, CLASSES))


@pytest.fixture
def registered() -> Iterator[None]:
    """Metrics of another package, which are gone afterwards."""
    before = dict(METRICS._plugins)

    @metric("tempered", source="a test")
    @dataclass(frozen=True)
    class Tempered:
        """Mean confidence at a temperature."""

        temperature: float = 1.0

        def __call__(self, model: nn.Module, data: pb.DataSet) -> Mapping[str, float]:
            with torch.no_grad():
                logits = model(data.normalised(data.test.inputs)) / self.temperature
            return {"mean": float(logits.softmax(1).amax(1).mean()), "infinite": float("inf")}

    @metric("draws", source="a test")
    def draws(model: nn.Module, data: pb.DataSet) -> torch.Tensor:
        model.train()
        return torch.rand(())

    @metric("broken", source="a test")
    def broken(model: nn.Module, data: pb.DataSet) -> str:
        return "much"

    yield
    METRICS._plugins = before


@pytest.mark.usefixtures("registered")
def test_a_metric_has_no_name_of_a_column(tmp_path: Path) -> None:
    @metric("status", source="a test")
    def status(model: nn.Module, data: pb.DataSet) -> float:
        return 0.5

    one = record("snip", 0.9, 0, 0.5)
    store = stored(str(tmp_path / "r"), [one])
    with pytest.raises(pb.UserError, match="metric status has the name of a column of the results"):
        evaluate_network(store, one.identity, network(), data(), ["status"])
    evaluate_network(store, one.identity, network(), data(), ["gap"])
    assert "gap.loss" in pb.read_results(tmp_path / "r")
    store.write(one)  # another network
    assert "gap.loss" not in pb.read_results(tmp_path / "r")


def test_the_built_in_ones_by_hand() -> None:
    model, examples = network().eval(), data()
    found = measure(model, examples, ["accuracy", "loss", "gap"])
    expected = {}
    for part, split in (("train", examples.train), ("test", examples.test)):
        logits = model(examples.normalised(split.inputs))
        right = (logits.argmax(1) == split.targets).double().mean().item()
        expected[part] = right, F.cross_entropy(logits, split.targets).item()
    assert found["accuracy"][""] == expected["test"][0]
    assert found["loss"][""] == pytest.approx(expected["test"][1])
    gaps = [trained - tested for trained, tested in zip(expected["train"], expected["test"], strict=True)]
    assert [found["gap"][key] for key in ("accuracy", "loss")] == pytest.approx(gaps)


def test_what_a_network_has_memorised_by_hand() -> None:
    class Knows(nn.Module):
        """Predicts the class that an example has as its only feature."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.one_hot(x[:, 0].long(), 3).float()

    true = torch.tensor([0, 1, 2, 0, 1])
    predicted = torch.tensor([0.0, 2.0, 2.0, 1.0, 1.0])[:, None]  # four of the labels trained on, three of the true
    trained = Split(predicted, torch.tensor([0, 2, 1, 1, 1]))
    test = Split(torch.tensor([[0.0], [1.0], [1.0], [2.0]]), torch.tensor([0, 1, 2, 2]))
    for drawn, noisy, of_true in (
        ([0, 1, 1, 1, 0], 2 / 3, 1 / 3),
        ([1, 1, 1, 1, 1], 4 / 5, 3 / 5),
        ([1, 0, 0, 0, 0], 1, 1),
    ):
        noise = LabelNoise(true, torch.tensor(drawn).bool())
        found = measure(Knows(), pb.DataSet("five", trained, test, 3, noise=noise), ["memorisation"])["memorisation"]
        assert found == pytest.approx({"train": 4 / 5, "noisy": noisy, "true": of_true, "test": 3 / 4})


def test_nothing_is_memorised_of_true_labels() -> None:
    said = (
        "metric memorisation: the network was trained on true labels, of which nothing is to be memorised: give label"
    )
    for examples in (data(), data().noisy(0.0, 0), data().noisy(0.01, 0, law="exact")):
        with pytest.raises(pb.UserError, match=said):
            measure(network(), examples, ["memorisation"])


@pytest.mark.usefixtures("registered")
def test_a_metric_leaves_no_trace_and_draws_the_same_every_time() -> None:
    model = network()
    model[2].eval()
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    assert measure(model, data(), ["draws"]) == measure(model, data(), ["draws"])
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("registered")
def test_metrics_from_outside_are_stored_and_read_beside_the_trial() -> None:
    store = stored("results", [record("snip", 0.9, seed, 0.9) for seed in range(2)])
    identity = sorted(path.stem for path in store.trials.glob("*.json"))[0]
    assert "gap.accuracy" not in pb.read_results("results")
    evaluate_network(store, identity, network(), data(), ["gap", "tempered:temperature=2"])
    evaluate_network(store, identity, network(), data(), ["loss", "tempered"])
    rows = pb.read_results("results").set_index("identity")
    found = measure(network(), data(), ["gap", "loss", "tempered:temperature=2", "tempered:temperature=1.0"])
    row = rows.loc[identity]
    assert row["loss"] == found["loss"][""]
    assert row["gap.accuracy"] == found["gap"]["accuracy"]
    assert row["tempered.mean"] == found["tempered"]["mean"]
    assert row["tempered:temperature=2.0.mean"] == found["tempered:temperature=2.0"]["mean"] < row["tempered.mean"]
    assert rows["tempered.infinite"].isna().all()
    assert rows["loss"].isna().sum() == 1  # the other trial
    assert list(rows.columns[:5]) == ["data", "model", "criterion", "variant", "sparsity"]
    kept = Store("results").read_evaluation(identity)
    assert kept is not None
    assert kept.metrics["loss"].environment["versions"]["torch"]
    with pytest.raises(pb.UserError, match="has no trial gone"):
        evaluate_network(store, "gone", network(), data(), ["loss"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("los", "unknown metric 'los': did you mean loss?"),
        ("loss:power=2", "metric loss has no options: power"),
        ("tempered:heat=2", "unknown option of tempered 'heat'"),
        ("broken", "metric broken must return a float, or floats by name, not 'much'"),
    ],
)
@pytest.mark.usefixtures("registered")
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        measure(network(), data(), [text])


def test_a_metric_may_be_named_with_underscores() -> None:
    before = dict(METRICS._plugins)
    try:
        metric("one_half", source="a test")(lambda _model, _data: 0.5)
        assert measure(network(), data(), ["one_half"]) == {"one_half": {"": 0.5}}
    finally:
        METRICS._plugins = before


def test_an_error_inside_a_metric_names_it() -> None:
    with pytest.raises(pb.UserError, match="metric loss raises RuntimeError: "):
        measure(nn.Linear(3, 2), data(), ["loss"])
    assert get_metric("accuracy")[0] == "accuracy"


MEASURED = Measured(values={"": 0.5}, environment={}, provenance={})


@pytest.mark.parametrize(
    "change",
    [{"identity": "other"}, {"metrics": {"loss": {"values": {"": "much"}, "environment": {}, "provenance": {}}}},
     {"schema": 2}, {"metrics": {"loss": {"values": {"": 0.5}}}}, {"metrics": 3}],
    ids=str,
)  # fmt: skip
def test_a_damaged_evaluation_is_left_out(change: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    store = stored("results", [one := record("snip", 0.9, 0, 0.9)])
    store.write(TrialMetrics(identity=one.identity, metrics={"loss": MEASURED}))
    path = store.path / "evaluations" / f"{one.identity}.json"
    assert store.read_evaluation(one.identity) == TrialMetrics(identity=one.identity, metrics={"loss": MEASURED})
    path.write_text(json.dumps(fields_of(path.read_text()) | change))
    assert store.read_evaluation(one.identity) is None
    assert "loss" not in pb.read_results("results")
    assert f"evaluations/{path.name} cannot be read" in caplog.text


def test_what_could_not_be_read_again_is_not_stored() -> None:
    store = stored("results", [one := record("snip", 0.9, 0, 0.9)])
    wrong = Measured(values={"": "much"}, environment={}, provenance={})  # type: ignore[dict-item]
    with pytest.raises(UnstorableError, match=r"could not be read again.*Expected `float \| null`"):
        store.write(TrialMetrics(identity=one.identity, metrics={"loss": wrong}))


def test_evaluations_go_with_a_trial_that_is_renamed_and_into_the_file_of_records(tmp_path: Path) -> None:
    from pai_bench.results import archive

    store = stored("results", [one := record("snip", 0.9, 0, 0.9), other := record("snip", 0.9, 1, 0.9)])
    for each in (one, other):
        store.write(TrialMetrics(identity=each.identity, metrics={"loss": MEASURED}))
    renamed = record("snip:ties=keep", 0.9, 0, 0.9)
    store.adopt(one.identity, renamed.identity, renamed.trial)
    assert {evaluation.identity for evaluation in store.read_all(TrialMetrics)} == {renamed.identity, other.identity}
    archive.pack(store.path, packed := tmp_path / "records.jsonl.xz")
    assert pb.read_results(packed)["loss"].tolist() == [0.5, 0.5]


def test_a_metric_that_draws_draws_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the next version, whose results stand beside those of this one."""
    METRICS.plugins()

    def drawn(_model: nn.Module, _data: pb.DataSet) -> float:
        return float(torch.rand(()))

    monkeypatch.setitem(METRICS._plugins, "drawn", Plugin("drawn", drawn, "here"))
    torch.manual_seed(3)
    expected = float(torch.rand((), generator=torch.Generator().manual_seed(0)))
    assert measure(network(), data(), ["drawn"]) == {"drawn": {"": expected}}
