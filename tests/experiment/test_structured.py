"""Trials of structured criteria train really smaller networks."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.analyses.collapse import check_counts
from pai_bench.analyses.cost import measure_cost
from pai_bench.execution.estimate import scoring_seconds
from pai_bench.experiment import stages
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.groups import CombinedMask, GroupMask
from pai_bench.results import Store
from pai_bench.support.identity import stream
from pai_bench.training.trainer import ENGINE
from tests.experiment.test_runner import sweep
from tests.made import COMBINED, STRUCTURED


def test_a_sweep_of_all_structured_criteria() -> None:
    frame = pb.run(sweep(criteria=[*STRUCTURED, "snip"], seeds=1, epochs=1), out="r")
    assert (frame.status == "done").all(), frame.error.tolist()
    written = [str(pb.get_criterion(name)) for name in STRUCTURED]
    pruned = frame[frame.criterion.isin(written)]
    assert sorted(pruned.criterion) == sorted(written)
    assert (pruned.achieved_sparsity >= 0.5).all()
    assert (pruned.achieved_sparsity < 0.5 + 8 / 128).all()  # a unit of `tiny` has 5 + 3 of 128 weights
    assert (pruned.parameters_kept % 8 == 0).all()
    assert (pruned.flops_kept == pruned.flops * pruned.parameters_kept / 128).all()
    assert (pruned.effective_sparsity == pruned.achieved_sparsity).all()
    assert (pruned.node_sparsity == pruned.achieved_sparsity).all()  # one hidden layer
    assert frame[~frame.criterion.isin(written)].node_sparsity.isna().all()
    stored = sum('"node_sparsity"' in path.read_text() for path in Path("r/trials").iterdir())
    assert stored == len(STRUCTURED)
    assert sum('"fixed"' in path.read_text() for path in Path("r/trials").iterdir()) == len(STRUCTURED)
    again = pb.run(sweep(criteria=["snap"], seeds=1, epochs=1), out="r")
    assert again.identity[again.criterion == "snap"].tolist() == pruned.identity[pruned.criterion == "snap"].tolist()
    assert pb.read_mask("r", pruned.identity.iloc[0]).kept == pruned.parameters_kept.iloc[0]


def test_a_sweep_of_criteria_of_units_and_single_weights() -> None:
    frame = pb.run(sweep(criteria=[*COMBINED, "cnip:count=published"], sparsities=[0.8], seeds=1, epochs=1), out="r")
    assert (frame.status == "done").all(), frame.error.tolist()
    pruned = frame[frame.criterion != "dense"].set_index("criterion")
    assert (pruned.parameters_kept[COMBINED] == round(0.2 * 128)).all()
    assert pruned.parameters_kept["cnip:count=published"] < round(0.2 * 128)
    assert (pruned.achieved_sparsity[COMBINED] == 1 - 26 / 128).all()
    assert (pruned.node_sparsity > 0).all()
    assert (pruned.node_sparsity < pruned.achieved_sparsity).all()
    # the smaller network has the single weights, which are zeros; its one hidden layer makes its shares equal
    assert (pruned.weight_sparsity == pruned.node_sparsity).all()
    assert (pruned.flop_sparsity == pruned.node_sparsity).all()
    for name in COMBINED:
        assert pb.read_mask("r", pruned.identity[name]).kept == 26


def test_a_mask_that_was_stored_under_a_former_name_is_made_again() -> None:
    keys: dict[str, Any] = {"models": ["lenet-5-caffe"], "data": ["digits"], "criteria": ["group"]}
    sweep_of_one = pb.Sweep(**keys, sparsities=[0.9], seeds=1, epochs=0, device="cpu")
    pb.run(sweep_of_one, out="r")
    record = next(one for one in Store("r") if one.trial["criterion"] is not None)
    trial = {**record.trial, "criterion": {**record.trial["criterion"], "name": "group"}}
    (former,) = {one.former.identity for one in resolve(sweep_of_one).trials if one.former}
    mask = pb.remake_mask(dataclasses.replace(record, trial=trial, identity=former))
    assert all(torch.equal(mask[name], keep) for name, keep in pb.read_mask("r", record.identity).items())


def test_a_stored_mask_of_units_and_single_weights_is_made_again() -> None:
    names: dict[str, Any] = {"models": ["lenet-5-caffe"], "data": ["digits"], "criteria": ["cnip-it"]}
    pb.run(pb.Sweep(**names, sparsities=[0.9], seeds=1, epochs=0, device="cpu"), out="r")
    identity = next(path.stem for path in Path("r/trials").glob("*cnip*.json"))
    first, again = pb.read_mask("r", identity), pb.remake_mask("r", identity)
    assert isinstance(again, CombinedMask)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("variant", ["none", "reinit", "invert"])
@pytest.mark.parametrize("name", ["cnip", "cnip-it"])
def test_training_keeps_the_zeros_of_the_smaller_network(name: str, variant: str) -> None:
    runner = Runner(resolve(sweep(criteria=[name], sparsities=[0.8], variants=[variant], epochs=2)))
    trial = runner.catalog.trials[1]
    model = runner.inputs.model(trial)
    mask, _ = runner.probe.mask(trial, model)
    assert isinstance(mask, CombinedMask)
    ready = stages.apply(runner.inputs, trial, model, mask, train_disconnected=True)
    units, single = int(mask.kept_groups.sum()), ready.training_mask
    assert units < 16
    assert single is not None
    assert ready.model.get_parameter("1.weight").shape == single["1.weight"].shape == (units, 5)
    before = {name: weight.detach().clone() for name, weight in ready.model.named_parameters()}
    stages.train_alone(runner.inputs, ready, lambda _trial, _epoch: None, ENGINE)
    assert single.kept == mask.kept == round(0.2 * 128) < single.size
    for key, kept in single.items():
        weight = ready.model.get_parameter(key)
        assert not weight[~kept].any()
        assert bool((weight != before[key])[kept].any())


def test_networks_without_any_path_are_not_trained() -> None:
    runner = Runner(resolve(sweep(criteria=["cnip"], sparsities=[0.992])))
    trial = runner.catalog.trials[1]
    model = runner.inputs.model(trial)
    mask, _ = runner.probe.mask(trial, model)
    assert isinstance(mask, CombinedMask)
    assert mask.kept == 1
    ready = stages.apply(runner.inputs, trial, model, mask)
    assert ready.skips_training
    assert sum(int(p.count_nonzero()) for p in ready.model.parameters() if p.dim() > 1) == 1
    assert not stages.apply(runner.inputs, trial, model, mask, train_disconnected=True).skips_training
    assert pb.run(sweep(criteria=["cnip"], sparsities=[0.992], seeds=1), out="r").status.tolist() == [
        "done",
        "disconnected",
    ]


@pytest.mark.parametrize("variant", ["none", "reinit", "invert"])
def test_what_is_trained_is_the_smaller_network(variant: str) -> None:
    runner = Runner(resolve(sweep(criteria=["snap"], sparsities=[0.7], sparsity_of="nodes", variants=[variant])))
    trial = runner.catalog.trials[1]
    model = runner.inputs.model(trial)
    mask, _ = runner.probe.mask(trial, model)
    assert isinstance(mask, GroupMask)
    assert int(mask.kept_groups.sum()) == round(0.3 * 16)
    ready = stages.apply(runner.inputs, trial, model, mask)
    assert ready.training_mask is None
    assert ready.model.get_parameter("1.weight").shape == (5, 5)
    kept = model.get_parameter("1.weight")[mask.kept_groups]
    assert torch.equal(ready.model.get_parameter("1.weight"), kept) == (variant != "reinit")
    plain, _ = runner.probe.mask(runner.catalog.trials[1], model)
    assert isinstance(plain, GroupMask)
    best = pb.get_criterion("snap").score(model, runner.inputs.score_batch(trial))
    chosen = best.sort(descending=variant != "invert").indices[:5]  # type: ignore[union-attr]
    assert sorted(chosen.tolist()) == mask.kept_groups.nonzero().flatten().tolist()


def reinitialised(init: str, criterion: str = "snap", **keys: Any) -> tuple[Runner, Any, GroupMask, nn.Module]:
    changes = {"models": ["lenet-5-caffe"], "data": ["digits"], "sparsities": [0.7], "variants": ["reinit"], **keys}
    runner = Runner(resolve(sweep(criteria=[criterion], init=init, **changes)))
    trial = runner.catalog.trials[1]
    mask, _ = runner.probe.mask(trial, model := runner.inputs.model(trial))
    assert isinstance(mask, GroupMask)
    return runner, trial, mask, stages.apply(runner.inputs, trial, model, mask, train_disconnected=True).model


def test_reinit_without_a_named_initialisation_draws_the_dense_network() -> None:
    """Which knows only the dense network: this is drawn again, as for single weights, and made smaller."""
    runner, trial, mask, found = reinitialised("own")
    expected = pb.shrink(runner.inputs.model(trial, "reinit"), mask).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
    assert found.get_parameter("conv2.weight").numel() < 0.9 * mask["conv2.weight"].numel()


@pytest.mark.parametrize("criterion", ["snap", "cnip"])
def test_reinit_draws_by_a_named_initialisation_with_the_fan_in_of_the_smaller_network(criterion: str) -> None:
    _, _, mask, found = reinitialised("vs-h", criterion)
    single = mask.shrunk()
    for name, weight in ((name, p.detach()) for name, p in found.named_parameters()):
        if weight.dim() == 1:
            assert not weight.any(), name  # biases
        elif weight.numel() > 400:
            kept = weight.flatten() if single is None else weight[single[name]]
            assert float(kept.std() * weight[0].numel() ** 0.5) == pytest.approx(2**0.5, rel=0.1)
    again = reinitialised("vs-h", criterion)[-1].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in found.state_dict().items())


def test_batch_norm_of_the_criterion_whose_scores_are_reduced() -> None:
    """`bn` of a sweep is given to the criterion that gives the scores; identities without it stay."""

    def of(text: str, bn: str) -> tuple[str, str]:
        trial = resolve(sweep(criteria=[text], bn=bn)).trials[1]
        assert trial.criterion is not None
        return str(trial.criterion), trial.criterion.bn

    assert of("group:of=snip", "published") == ("group:of=snip", "eval")
    assert of("group:of=snip", "eval") == ("group:of=snip", "eval")
    assert of("group:of=snip", "train") == ("group:bn=train:of=snip:of.bn=train", "train")
    assert of("group:of=snip:of.bn=train", "train") == ("group:bn=train:of=snip:of.bn=train", "train")
    assert of("group:of=grasp", "published") == ("group:of=grasp", "eval")
    assert of("group:of=grasp", "eval") == ("group:of=grasp:of.bn=eval", "eval")
    assert of("group:of=grasp:of.temperature=1", "eval")[0] == "group:of=grasp:of.temperature=1:of.bn=eval"
    assert of("group:of=magnitude", "train") == ("group:of=magnitude:bn=train", "train")  # reads no data
    for text, bn in (("snip:of.bn=eval", "train"), ("snip:of.bn=train", "eval"), ("grasp:bn=train", "eval")):
        with pytest.raises(pb.UserError, match=rf"and bn {bn} ask for different modes of batch norm"):
            of(f"group:of={text}", bn)


def fixed_layer(shape: Any, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], classes))


def test_a_network_in_which_nothing_is_free_is_named() -> None:
    runner = Runner(resolve(sweep(criteria=["snap"], models=[fixed_layer])))
    trial = runner.catalog.trials[1]
    message = r"^snap: no unit of fixed_layer can .*, since all its layers are fixed \(the network's output\)$"
    for score in (runner.probe.mask, runner.inputs.scorer):
        with pytest.raises(pb.UserError, match=message):
            score(trial, runner.inputs.model(trial))


def test_a_request_that_cannot_be_reached_is_named_at_the_first_cut_that_fails() -> None:
    message = r"^a sparsity of 0\.9 of nodes cannot .* 5 units of every layer .*; the largest is 0\.5$"
    with pytest.raises(pb.UserError, match=message):
        pruned(criteria=["snap-it"], sparsities=[0.9], min_per_layer=5)


def test_what_a_sparsity_outside_its_range_is_a_share_of() -> None:
    for unit, name in (("weights", "weights"), ("nodes", "units"), ("flops", "operations")):
        with pytest.raises(pb.UserError, match=rf"it is the share of {name} removed$"):
            sweep(criteria=["snap"], sparsities=[1], sparsity_of=unit)


def two_layers(_input_shape: Any, _num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def network_and_batch(**keys: Any) -> tuple[Runner, Any, nn.Module, pb.Batch]:
    """Of the one trial of a sweep, with two hidden layers."""
    changes = {"criteria": ["snap"], "models": [two_layers], "sparsity_of": "nodes", "seeds": 1, **keys}
    runner = Runner(resolve(sweep(**changes)))
    trial = runner.catalog.trials[1]
    return runner, trial, runner.inputs.model(trial), runner.inputs.score_batch(trial)


def pruned(**keys: Any) -> tuple[Tensor, Tensor]:
    """Which units of the two hidden layers stay, and their scores."""
    runner, trial, model, batch = network_and_batch(**keys)
    mask, _ = runner.probe.mask(trial, model)
    assert isinstance(mask, GroupMask)
    scores: Any = pb.get_criterion("snap").score(model, batch)
    return mask.kept_groups, scores


@pytest.mark.parametrize(
    "keys",
    [
        {"sparsities": [0.5], "scope": "layerwise"},
        {"sparsities": [0.6], "min_per_layer": 4},
        {"sparsities": [0.5], "variants": ["shuffle"]},
    ],
)
def test_prune_gives_the_mask_of_a_trial(keys: dict[str, Any]) -> None:
    _, trial, model, batch = network_and_batch(**keys)
    mask = pb.prune(
        model,
        batch,
        "snap",
        trial.sparsity,
        sparsity_of="nodes",
        scope=trial.scope,
        min_per_layer=trial.min_per_layer,
        variant=trial.variant or "none",
        seed=stream(trial.seed, "scores"),
    )
    assert isinstance(mask, GroupMask)
    assert torch.equal(mask.kept_groups, pruned(**keys)[0])


def test_the_scope_layerwise_keeps_the_same_share_of_each_layer() -> None:
    kept, scores = pruned(sparsities=[0.5], scope="layerwise")
    best = [*scores[:12].argsort()[6:].tolist(), *(12 + scores[12:].argsort()[4:]).tolist()]
    assert kept.nonzero().flatten().tolist() == sorted(best)


def test_min_per_layer_keeps_the_best_units_of_each_layer() -> None:
    kept, scores = pruned(sparsities=[0.6], min_per_layer=4)  # 8 of 20 units stay: 4 of each layer
    best = [*scores[:12].argsort()[8:].tolist(), *(12 + scores[12:].argsort()[4:]).tolist()]
    assert kept.nonzero().flatten().tolist() == sorted(best)


def test_min_per_layer_below_1_is_a_share_of_the_units_of_the_dense_layer() -> None:
    """3 of 12 and 2 of 8 units, at every cut: with all of 5 to stay, no other does."""
    for criterion in ("snap", "snap-it"):
        kept, _ = pruned(criteria=[criterion], sparsities=[0.75], min_per_layer=0.25)
        assert [int(part.sum()) for part in kept.split([12, 8])] == [3, 2]
    with pytest.raises(pb.UserError, match=r"since up to 4 units of every layer .* the largest is 0\.65"):
        pruned(sparsities=[0.75], min_per_layer=0.3)  # 4 of 12 and 3 of 8 stay, of 20


def test_a_shuffle_keeps_the_number_of_units_of_each_layer() -> None:
    plain, _ = pruned(sparsities=[0.5])
    kept, _ = pruned(sparsities=[0.5], variants=["shuffle"])
    assert [int(part.sum()) for part in kept.split([12, 8])] == [int(part.sum()) for part in plain.split([12, 8])]
    assert not torch.equal(kept, plain)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"criteria": ["snip"], "sparsity_of": "nodes"}, "sparsity of nodes is for structured criteria: snip removes"),
        ({"criteria": ["snap"], "variants": ["global-shuffle"]}, "variant global-shuffle is for criteria of single"),
        ({"criteria": ["snap"], "variants": ["quota:snip"]}, "variant quota:snip is for criteria of single weights"),
        ({"criteria": ["snap"], "target": "effective"}, "target effective is for criteria of single weights"),
        ({"criteria": ["snap"], "repair": "effective-only"}, "repair effective-only is for criteria of single weights"),
        (
            {"criteria": ["snap"], "keep_last": True},
            "a choice of the weights to prune is for criteria of single weights",
        ),
        ({"criteria": ["snap:biases=true"]}, "biases=true is for criteria of single weights"),
        ({"criteria": ["snap:ties=keep"]}, "ties=keep is for criteria of single weights"),
        ({"criteria": ["cnip"], "sparsity_of": "nodes"}, "sparsity of nodes has no meaning for cnip, which ranks"),
        ({"criteria": ["cnip-it"], "repair": "effective-only"}, "repair effective-only is for criteria of single"),
        ({"criteria": ["cnip:ties=keep"]}, "ties=keep is for criteria of single weights"),
    ],
)
def test_options_of_single_weights_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        resolve(sweep(**keys))


def test_a_quota_of_single_weights_is_refused() -> None:
    with pytest.raises(pb.UserError, match="scope quota is for criteria of single weights: snap removes whole units"):
        pb.prune(two_layers(None, 3), (torch.ones(1, 5), torch.tensor([0])), "snap", 0.5, scope="quota")


def test_a_search_for_disconnection_is_refused() -> None:
    with pytest.raises(pb.UserError, match="snap removes whole units"):
        check_counts(pb.get_criterion("snap"))
    with pytest.raises(pb.UserError, match="cnip removes whole units, too"):
        check_counts(pb.get_criterion("cnip"))


def test_the_cost_of_a_score_of_units_and_single_weights() -> None:
    runner = Runner(resolve(sweep(criteria=["cnip-it"], sparsities=[0.8], seeds=1)))
    cost = measure_cost(runner, runner.catalog.trials[1], 0.25, rounds=2, budget=1.0)
    assert (cost.rounds, cost.cuts, cost.weights) == (2, 7, 128)
    assert cost.seconds > 0
    assert cost.prune_seconds > 0
    assert cost.smaller is not None
    assert 0 < cost.smaller.node_sparsity < 0.8


def test_the_cost_of_a_structured_score() -> None:
    runner = Runner(resolve(sweep(criteria=["snap-it"], sparsity_of="nodes", seeds=1)))
    cost = measure_cost(runner, runner.catalog.trials[1], 0.25, rounds=2, budget=1.0)
    assert (cost.rounds, cost.cuts, cost.weights) == (2, 1, 128)
    assert min(cost.seconds, cost.prune_seconds) > 0


def test_identities_say_what_a_sparsity_is_of() -> None:
    names = {
        of: resolve(sweep(criteria=["snap"], sparsity_of=of, seeds=1)).trials[1].configuration().get("sparsity_of")
        for of in ("weights", "nodes", "flops")
    }
    assert names == {"weights": None, "nodes": "nodes", "flops": "flops"}


def test_the_seconds_of_structured_scores_are_estimated() -> None:
    runner = Runner(resolve(sweep(criteria=["snap"], seeds=1)))
    seconds, not_measured = scoring_seconds(runner, runner.catalog.trials)
    assert seconds > 0
    assert not_measured == []
