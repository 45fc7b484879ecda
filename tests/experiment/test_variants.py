"""Variants, scopes and options of criteria as axes of a sweep."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import pai_bench as pb
from pai_bench.execution import run_catalog
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.pruning import Variant
from pai_bench.report.page import write_report
from pai_bench.results import Record, Store
from pai_bench.scoring import MaskedModel
from tests.experiment.test_runner import sweep


def kept(record: Record) -> list[int]:
    return [layer.kept for layer in record.pruning.layers]


def test_variants_are_an_axis_of_the_sweep() -> None:
    variants = ["none", "shuffle", "global_shuffle", "reinit", "invert", "quota:erk"]
    records = run_catalog(resolve(unconnected(variants=variants, criteria=["magnitude"])), "r")
    assert [record.status for record in records] == ["done"] * 7, [record.error for record in records]
    rows = pb.read_results("r").set_index("identity").loc[[record.identity for record in records]]
    assert rows.variant.tolist() == ["none", "none", "shuffle", "global-shuffle", "reinit", "invert", "quota:erk"]
    assert len(set(rows.index)) == 7
    _, none, shuffle, _, reinit, invert, quota = records
    assert kept(shuffle) == kept(none) == kept(reinit)
    assert kept(quota) == kept(run_catalog(resolve(unconnected(criteria=["erk"])), "r")[1])
    # the same connections from other weights train to something else
    assert reinit.training.curve != none.training.curve
    assert invert.training.curve != none.training.curve
    report = Path("report.md")
    write_report(Store("r"), report)
    for label in ("| magnitude |", "| magnitude + shuffle |", "| magnitude + quota:erk |"):
        assert label in report.read_text()


def unconnected(**changes: Any) -> pb.Sweep:
    return sweep(seeds=1, sparsities=[0.8], train_disconnected=True, **changes)


def test_the_dense_reference_has_no_variant() -> None:
    identities = [resolve(sweep(variants=[v], seeds=1)).trials[0].identity for v in ("none", "shuffle")]
    assert identities[0] == identities[1]


def test_mistakes_in_variants() -> None:
    for given, message in (
        (["shufle"], "unknown variant 'shufle': did you mean shuffle"),
        (["global-shuffle", "global_shuffle"], "variants: global-shuffle is given twice"),
        (["quota:erkk"], "unknown criterion 'erkk'"),
    ):
        with pytest.raises(pb.UserError, match=message):
            resolve(sweep(variants=given))


def test_er_has_a_quota_unless_another_scope_is_asked_for() -> None:
    for scope, expected in ((None, "quota"), ("global", "global"), ("layerwise", "layerwise")):
        trial = resolve(sweep(criteria=["er"], scope=scope, seeds=1)).trials[1]
        assert trial.scope == expected
    assert resolve(sweep(criteria=["snip"], seeds=1)).trials[1].scope == "global"


def test_several_score_batches_come_from_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, list[int]]] = []

    @dataclass(frozen=True)
    class Look(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            counts = [torch.bincount(part.targets, minlength=3).tolist() for part in batch.split()]
            seen.append((len(batch.inputs), batch.batches, counts[0]))
            assert all(count == [4, 4, 4] for count in counts)
            return {name: w.abs() for name, w in model.weights().items()}

    catalog = resolve(sweep(criteria=[Look()], score_batch=12, score_batches=5, seeds=1))
    record = run_catalog(catalog, "r")[1]
    assert record.status == "done", record.error
    assert seen[-1] == (60, 5, [4, 4, 4])
    assert record.trial["score_batches"] == 5
    with pytest.raises(pb.UserError, match="score-batch 100 x 3 is larger than the 240 training examples"):
        resolve(sweep(score_batch=100, score_batches=3))


def test_options_that_came_later_do_not_move_identities() -> None:
    plain = resolve(sweep(seeds=1)).trials[1]
    assert dict(plain.configuration()["criterion"]["options"]) == {"bn": "eval", "seed": None}
    changed = resolve(sweep(criteria=["snip:accumulate=score:biases=true:micro-batch=8"], seeds=1)).trials[1]
    assert dict(changed.configuration()["criterion"]["options"])["micro_batch"] == 8
    assert changed.identity != plain.identity


def test_biases_are_pruned_and_counted_in_a_sweep() -> None:
    record = run_catalog(resolve(sweep(criteria=["snip:biases=true"], seeds=1, sparsities=[0.9])), "r")[1]
    assert record.status == "done", record.error
    assert [layer.name for layer in record.pruning.layers] == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert sum(kept(record)) == round(0.1 * (80 + 16 + 48 + 3))
    assert not any("bias" in name for name in record.pruning.dead_layers or ())


def test_another_draw_is_scored_than_the_one_that_is_trained() -> None:
    """The weights of the redrawn network are the model's own initialisation, from a stream of their own."""
    seen: list[torch.Tensor] = []

    @dataclass(frozen=True)
    class Look(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            seen.append(model.weights()["1.weight"].clone())
            return model.weights()

    catalog = resolve(sweep(criteria=[Look(score_init="redrawn")], seeds=1))
    assert run_catalog(catalog, "r")[1].status == "done"
    trial, runner = catalog.trials[1], Runner(catalog)
    assert torch.equal(seen[-1], runner.inputs.model(trial, "redraw").get_parameter("1.weight"))
    assert not torch.equal(seen[-1], runner.inputs.model(trial).get_parameter("1.weight"))


def test_a_quota_from_a_criterion_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Mine(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            return {name: w.abs() for name, w in model.weights().items()}

    variant = Variant("quota", Mine())
    records = run_catalog(resolve(sweep(criteria=["random"], variants=["none", variant], seeds=1)), "r")
    assert [record.status for record in records] == ["done"] * 3, [record.error for record in records]
    assert kept(records[2]) == kept(run_catalog(resolve(sweep(criteria=["magnitude"], seeds=1)), "r")[1])
    assert records[2].trial["scope"] == "quota"


def test_a_scope_beside_a_quota_is_no_other_trial() -> None:
    identities = {
        resolve(sweep(variants=["quota:erk"], scope=scope, seeds=1)).trials[1].identity for scope in (None, "layerwise")
    }
    assert len(identities) == 1


def test_scores_by_the_examples_of_one_class() -> None:
    frame = pb.run(sweep(criteria=["snip"], score_sampling="class-2", score_batch=20, seeds=1), out="r")
    assert set(frame.status) == {"done"}
    catalog = resolve(sweep(criteria=["snip"], score_sampling="class-2", score_batch=20, seeds=1))
    made = Runner(catalog)
    trial = next(trial for trial in catalog.trials if trial.criterion)
    assert set(made.inputs.score_batch(trial).targets.tolist()) == {2}
    with pytest.raises(pb.UserError, match="score-sampling 'class-x' is not balanced, random or class-N"):
        sweep(score_sampling="class-x")
