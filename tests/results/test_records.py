"""What a record, a cost, a search or a benchmark may hold: the limits themselves, and what lies just beyond them."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from pai_bench.results import BenchmarkResult, Collapse, Cost, Layer, Record
from pai_bench.results.records import KEYS
from pai_bench.results.stored import flattened
from pai_bench.support.identity import identify
from tests.report.records import altered, drawn, fields_of, record
from tests.report.test_damage import benchmark, collapse, cost

Stored = Record | Cost | Collapse | BenchmarkResult


def changed(one: Any, path: str, value: Any) -> Any:
    """A record with another value at a path, such as ``provenance.data.train``, under the name that it then has."""
    key, *inside = path.split(".")
    if key != "trial":
        for step in reversed(inside):
            value = {step: value}
        return altered(one, **{key: value})
    whole = json.loads(json.dumps(dict(one.trial)))
    place = whole
    for step in inside[:-1]:
        place = place[step]
    place[inside[-1]] = value
    return altered(one, trial=whole, identity=one.identity[:-12] + identify("", whole)[-12:])


def text(one: Stored) -> str:
    return json.dumps(dataclasses.asdict(one)) if isinstance(one, Cost) else one.to_json()


def refused(one: Stored) -> bool:
    """Whether it cannot be read again; what can is the same."""
    try:
        again: Stored = type(one).from_json(text(one))
    except ValueError as error:
        return "a field " in str(error)
    return text(again) != text(one)


SHARES = [
    *("test_accuracy", "achieved_sparsity", "effective_sparsity", "chance_accuracy"),
    *("trial.label_noise", "trial.validation", "trial.train_fraction"),
]


@pytest.mark.parametrize("path", SHARES)
def test_a_share_lies_between_0_and_1(path: str) -> None:
    one = drawn("snip", 0.5, 0, 0.9)
    assert [refused(changed(one, path, value)) for value in (-0.001, 0.0, 1.0, 1.001)] == [True, False, False, True]


def test_the_accuracy_of_every_epoch_is_a_share() -> None:
    one = drawn("snip", 0.5, 0, 0.9)
    for value, wrong in ((-0.001, True), (0.0, False), (1.0, False), (1.001, True)):
        last = dataclasses.replace(one.training.curve[-1], test_accuracy=value)
        assert refused(altered(one, curve=(*one.training.curve[:-1], last))) is wrong


AMOUNTS = [
    *("score_seconds", "score_peak_bytes", "train_seconds", "images_per_second", "epochs", "flops", "not_prunable"),
    *("chance_loss", "provenance.data.train", "provenance.data.test", "provenance.data.classes"),
    *("trial.seed", "environment.threads"),
]


@pytest.mark.parametrize("path", AMOUNTS)
def test_an_amount_is_not_negative(path: str) -> None:
    one = drawn("snip", 0.5, 0, 0.9)
    assert [refused(changed(one, path, value)) for value in (-1, 0, 1)] == [True, False, False]


@pytest.mark.parametrize(
    ("path", "value", "wrong"),
    [
        *(
            ("trial.sparsity", value, wrong)
            for value, wrong in ((0.0, False), (0.999, False), (1.0, True), (-0.1, True))
        ),
        *(("trial.score_batch", value, wrong) for value, wrong in ((0, True), (1, False), (-1, True))),
        ("trial.criterion.name", "dense", True),
        ("trial.criterion.options", [["a", 1], ["b", [2]]], False),
        ("trial.criterion.options", [["a"]], True),
        ("trial.criterion.options", [[1, 2]], True),
        ("trial.traced", ["own.weight"], False),
        ("trial.traced", ["own.weight", 1], True),
        ("provenance.data.shape", [3, 1, 1], False),
        ("provenance.data.shape", [3, 0, 1], True),
        ("provenance.data.shape", [3, "1"], True),
        ("environment.versions", {}, True),
        ("environment.versions", {"torch": None}, False),
        ("environment.versions", ["torch"], True),
        ("test_accuracy", None, True),
        ("test_loss", None, False),
        ("test_loss", 1e300, False),
        ("test_loss", 1.1e300, True),
        ("test_loss", -1e300, False),
        ("test_loss", 1e-300, False),
        ("test_loss", 0.9e-300, True),
        ("test_loss", 0, False),
        ("test_loss", True, True),
        ("score_peak_bytes", 2**62, False),
        ("score_peak_bytes", 2**62 + 1, True),
        ("epochs", True, True),
        ("epochs", 1.5, True),
        ("connected", 1, True),
        ("error", "oh no: ä", False),
        ("dead_layers", ("a.weight", 1), True),
        ("layers", (Layer(name="a", size=0, kept=0),), True),
        ("layers", (Layer(name="a", size=2, kept=2, effective=2),), False),
        ("layers", (Layer(name="a", size=2, kept=3),), True),
        ("layers", (Layer(name="a", size=2, kept=-1),), True),
        ("layers", (Layer(name="a", size=2, kept=1, effective=3),), True),
        ("layers", (Layer(name="a", size=2, kept=1, effective=-1),), True),
    ],
)
def test_what_a_record_may_hold(path: str, value: Any, wrong: bool) -> None:
    one = altered(drawn("snip", 0.5, 0, 0.9), mask=None)
    assert refused(changed(one, path, value)) is wrong


def test_a_failed_trial_has_no_accuracy_and_a_dense_one_no_sparsity() -> None:
    assert not refused(record("snip", 0.9, 0, None))
    dense = record(None, 0.0, 0, 0.9)
    assert not refused(dense)
    assert refused(changed(dense, "trial.sparsity", 0.5))


Make = Callable[[], Stored]


@pytest.mark.parametrize(
    ("make", "path", "value", "wrong"),
    [
        (benchmark, "values", {"a": 1, "b": "word", "c": None}, False),
        (benchmark, "values", {"a": 1, "b": [1]}, True),
        (benchmark, "values", {"a": True}, True),
        (benchmark, "limits", {"a": 1.0, "b": "low"}, True),
        (benchmark, "limits", {"a": None}, True),
        (benchmark, "limits", {}, False),
        (benchmark, "seconds", 0, False),
        (benchmark, "seconds", -0.1, True),
        (benchmark, "status", "fine", True),
        (collapse, "layers_until", {"a.weight": 1.0, "b.weight": 0}, False),
        (collapse, "layers_until", {"a.weight": 0.5, "b.weight": "all"}, True),
        (collapse, "layers_until", {"a.weight": 0.5, "b.weight": None}, True),
        (collapse, "layers_until", {"a.weight": 0.5, "b.weight": 1.1}, True),
        (collapse, "layers_until", {"a.weight": 0.5}, True),  # not as many layers as densities
        (collapse, "layers_until", {}, True),
        (collapse, "connected_until", 1.0, True),
        (collapse, "connected_until", 0, False),
        (collapse, "connected_until", None, False),
        (collapse, "cut_from", 1.0, False),
        (collapse, "cut_from", 1.1, True),
        (collapse, "size", 1, False),
        (collapse, "size", 0, True),
        (collapse, "seconds", 0, False),
        (collapse, "seconds", -1, True),
        (collapse, "tried", (), True),
        *((cost, key, value, wrong) for key in ("seconds", "floor_seconds", "prune_seconds", "step_seconds")
          for value, wrong in ((0, True), (1, False))),
        *((cost, key, value, wrong) for key in ("iqr", "prune_iqr", "rounds", "weights", "peak_bytes",
          "floor_peak_bytes", "prune_peak_bytes") for value, wrong in ((0, False), (-1, True))),
        *((cost, f"{part}device_seconds", value, wrong) for part in ("", "floor_", "prune_")
          for value, wrong in ((None, False), (0, False), (-1, True))),
    ],
)  # fmt: skip
def test_what_else_may_hold(make: Make, path: str, value: Any, wrong: bool) -> None:
    assert refused(changed(make(), path, value)) is wrong


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"sparsity": 1.0, "connected": False}, False),
        ({"sparsity": 1.0, "connected": True}, True),
        ({"sparsity": 1.1, "connected": False}, True),
        ({"effective_sparsity": None, "effective": None}, False),
        ({"effective_sparsity": None}, True),
        ({"effective": None}, True),
        ({"effective": (0.5,)}, True),
        ({"effective": (0.5, 1.1)}, True),
        ({"densities": (0.5,)}, True),
        ({"densities": (0.5, -0.1)}, True),
        ({"effective_sparsity": 1.1}, True),
    ],
)
def test_what_a_search_may_have_tried(changes: dict[str, Any], wrong: bool) -> None:
    one = collapse()
    assert refused(dataclasses.replace(one, tried=(dataclasses.replace(one.tried[0], **changes),))) is wrong


@pytest.mark.parametrize("one", [drawn("snip", 0.5, 0, 0.9), cost(), collapse(), benchmark()])
def test_what_was_measured_cannot_be_changed(one: Stored) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.schema = 2  # type: ignore[misc]


def test_the_form_of_a_file() -> None:
    one = altered(drawn("snip", 0.5, 0, 0.9), whole_mask=b"bits")
    for form in (one, collapse(), benchmark()):
        assert form.to_json().startswith(
            f'{{\n "{"identity" if form is one else next(iter(dataclasses.asdict(form)))}"'
        )
        assert form.to_json().endswith("\n}\n")
    assert "whole_mask" not in one.to_json() + repr(one)


def test_every_field_has_its_place_in_the_file() -> None:
    shares = {"node_sparsity": 0.5, "weight_sparsity": 0.6, "flop_sparsity": 0.7}
    during = {"training_flops": 1e9, "events": 1, "event_steps": (5,), "event_seconds": 0.5}
    during |= {"trainings": 2, "total_training_flops": 2e9, "total_train_seconds": 1.5}
    one = altered(record("snip", 0.9, 0, None), traceback="Traceback", fixed={"a": "why"}, **shares, **during)
    assert sorted(flattened(one)) == sorted(KEYS)
    assert list(fields_of(one.to_json())) == list(KEYS)
    assert Record.from_json(one.to_json()) == one
    bare = fields_of(record("snip", 0.9, 0, 0.5).to_json())
    assert {*KEYS} - bare.keys() == {"traceback", "fixed", *shares, *during}  # which are not there where they are empty


def test_what_is_wrong_with_a_file_is_said_in_a_line() -> None:
    fields = fields_of(drawn("snip", 0.5, 0, 0.9).to_json())
    fields["layers"][1]["size"] = "many"
    with pytest.raises(ValueError, match=r"Expected `int`, got `str` - at `\$.pruning.layers\[1\].size`"):
        Record.from_json(json.dumps(fields))
    with pytest.raises(ValueError, match="a field is missing or malformed") as refusal:
        Record.from_json(json.dumps(fields_of(drawn("snip", 0.5, 0, 0.9).to_json()) | {"status": "no\nword" * 1000}))
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 300


def test_what_an_earlier_version_did_not_store_is_what_it_did() -> None:
    one = record("snip", 0.9, 0, 0.5)
    assert not {"variant", "score_batches", "target", "label_noise", "validation", "init"} & set(one.trial)
    row = one.row()
    assert (row["variant"], row["target"], row["repair"], row["init"]) == ("none", "direct", "none", "own")
    assert (row["score_batches"], row["min_per_layer"], row["label_noise"], row["validation"]) == (1, 0, 0, 0)


def test_a_row_by_hand() -> None:
    """50 and 30 connections of 80 and 15; of two operations each, with 30 of other layers: 2 (15 + 10) are not made."""
    layers = (
        Layer(name="a", size=80, kept=65, shape=(5, 16), flops=160),
        Layer(name="b", size=15, kept=5, shape=(3, 5), flops=30),
    )
    one = altered(drawn("snip", 0.5, 0, 0.9), layers=layers, flops=220, not_scored=("c", "d"), mask=None)
    row = one.row()
    assert row["flops_kept"] == pytest.approx(220 - 2 * 15 - 2 * 10)
    assert (row["parameters"], row["parameters_kept"], row["classes"]) == (95, 70, 3)
    assert row["best_accuracy"] == pytest.approx(0.9)  # the curve: 0.3, 0.61, 0.9
    assert (row["not_scored"], row["prunable"], row["test_examples"], row["train_loss"]) == ("c, d", "usual", 5, 1.0)
    assert changed(one, "provenance.data.classes", 7).row()["classes"] == 7
    assert altered(one, flops=None).row()["flops_kept"] is None
    unknown = (dataclasses.replace(layers[0], flops=None), layers[1])
    assert altered(one, layers=unknown).row()["flops_kept"] is None
    bare = altered(one, layers=(), curve=(), flops=220).row()
    assert (bare["parameters"], bare["parameters_kept"], bare["classes"], bare["train_loss"]) == (
        None,
        None,
        None,
        None,
    )
    assert (bare["best_accuracy"], bare["flops_kept"]) == (0.9, 220)


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        ({}, "usual"),
        ({"prunable": "fc*"}, "only fc*"),
        ({"traced": ("a", "b")}, "with 2 further weights"),
        ({"prunable": "fc*", "traced": ("a",)}, "only fc*"),
        ({"keep_first": True}, "without the first layer"),
        ({"keep_first": True, "keep_last": True, "prunable": "x"}, "only x, without the first and the last layer"),
    ],
)
def test_what_is_pruned_in_words(trial: dict[str, Any], words: str) -> None:
    assert record("snip", 0.9, 0, 0.5, trial=trial).row()["prunable"] == words
    assert record(None, 0.0, 0, 0.5, trial=trial).row()["prunable"] is None


def test_a_search_whose_trial_has_another_type_is_refused() -> None:
    found = collapse()
    with pytest.raises(ValueError, match="seed"):
        dataclasses.replace(found, trial={**found.trial, "seed": "one"}).check()
