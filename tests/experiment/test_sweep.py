"""Sweeps are checked, trials are paired, identities do not move."""

import dataclasses
import itertools
from typing import Any

import pytest

from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.sweep import Sweep
from pai_bench.experiment.trial import Trial, expand
from pai_bench.masks import OneShot
from pai_bench.pruning import get_variant
from pai_bench.scoring import get_criterion
from pai_bench.support.errors import UserError
from pai_bench.support.identity import stream
from pai_bench.support.registry import CRITERIA, PROTOCOLS
from pai_bench.training.protocol import get_protocol
from tests.made import Choice, Named, data, network
from tests.made import trial as made_trial

SHORT = PROTOCOLS["short"]
SNIP = Choice(name="snip", options=(("bn", "eval"), ("seed", None)))


def trial(**changes: Any) -> Trial:
    """A trial of snip on digits, with changes."""
    return made_trial(**{"model": "lenet-5-caffe", "criterion": SNIP, "sparsity": 0.95, **changes})


# Results are found again by these names. A change here makes everybody's stored results useless: add fields so that
# they are left out at the value that means the old behaviour (Trial.configuration).
PINNED = {
    "digits-lenet-5-caffe-snip-0.95-s0-06b8c1e303f8": trial(),
    "digits-lenet-5-caffe-snip-0.95-s1-6cef417afe3f": trial(seed=1),
    "digits-lenet-5-caffe-snip-0.995-s0-c8b0600ff52d": trial(sparsity=0.995),
    "digits-vgg-11-bn-snip-0.95-s0-b8980bd9c984": trial(model="vgg-11-bn", protocol=PROTOCOLS["short-bn"]),
    "cifar10-jpeg-lenet-5-caffe-snip-0.95-s0-676b7db599b1": trial(data="cifar10-jpeg"),
    "digits-lenet-5-caffe-snip-0.95-s0-f56a64b3af9e": trial(
        criterion=Choice(name="snip", options=SNIP.options, schedule="linear:steps=10")
    ),
    "digits-lenet-5-caffe-snip-0.95-s0-7bc7d426575f": trial(
        criterion=Choice(name="snip", options=SNIP.options, revision=2)
    ),
    "digits-lenet-5-caffe-snip-0.95-s0-713420805718": trial(scope="layerwise"),
    "digits-lenet-5-caffe-snip-0.95-s0-0c426441ec80": trial(score_batch=128, score_sampling="random"),
    "digits-lenet-5-caffe-snip-0.95-s0-30a3c51849d9": trial(train_fraction=0.9),
    "digits-lenet-5-caffe-snip-0.95-s0-3863009fce0a": trial(
        protocol=get_protocol("short", epochs=20, batch_size=64, learning_rate=0.1, weight_decay=0.0)
    ),
    "digits-lenet-5-caffe-dense-0-s0-0f77ab0bf503": trial(criterion=None, sparsity=0.0),
    "digits-lenet-5-caffe-grasp_temperature=1.0-0.95-s0-9a6941a9331a": trial(
        criterion=Choice(name="grasp:temperature=1.0", options=(("bn", "train"), ("seed", None), ("temperature", 1.0)))
    ),
}


def test_identities_are_pinned() -> None:
    assert [t.identity for t in PINNED.values()] == list(PINNED)


def test_what_has_no_influence_is_not_in_the_identity() -> None:
    dense = trial(criterion=None, sparsity=0.0)
    assert dense.identity == trial(criterion=None, sparsity=0.0, scope="layerwise", score_batch=7).identity
    renamed = get_protocol("short-bn", epochs=SHORT.epochs)
    assert trial(protocol=renamed).identity == trial().identity


def test_identities_are_file_names() -> None:
    odd = trial(data="folder:my pets@1a2b3c4d", criterion=Choice(name="./a b.py:Mine:x=1/2"))
    assert not set(odd.identity) & set("/: @")


def test_expansion_is_paired_and_starts_each_network_with_the_dense_one() -> None:
    sweep = Sweep(criteria=["snip", "random"], models=["lenet"], sparsities=[0.5, 0.9], seeds=2)
    choices: Any = [(SNIP, OneShot()), (Choice(name="random"), OneShot())]
    networks = [(data("digits"), network("a"), SHORT, 100), (data("digits"), network("b", 2, ("own",)), SHORT, 100)]
    trials = expand(sweep, choices, networks)
    short = [(t.seed, t.model.name, t.criterion_name, t.sparsity) for t in trials]
    assert len(short) == len(set(short)) == 2 * 2 * (1 + 2 * 2)
    assert short[:6] == [
        (0, "a", "dense", 0.0),
        (0, "a", "snip", 0.5),
        (0, "a", "snip", 0.9),
        (0, "a", "random", 0.5),
        (0, "a", "random", 0.9),
        (0, "b", "dense", 0.0),
    ]
    assert [s[0] for s in short] == sorted(s[0] for s in short)


def test_streams_differ_by_seed_and_purpose_and_nothing_else() -> None:
    assert stream(0, "weights") == stream(0, "weights")
    assert len({stream(seed, purpose) for seed in range(10) for purpose in ("weights", "batch", "order")}) == 30


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sparsities": [1.0]}, r"sparsity 1 is outside \[0, 1\)"),
        ({"sparsities": [-0.1]}, r"sparsity -0.1 is outside"),
        ({"sparsities": [float("nan")]}, "sparsity=nan is not a finite number"),
        ({"sparsities": [0.9, 0.9]}, "sparsities: 0.9 is given twice"),
        ({"sparsities": []}, "sparsities: the list is empty"),
        ({"criteria": []}, "criteria: the list is empty"),
        ({"criteria": ["snip", ""]}, "criteria: the list is empty or has an empty entry"),
        ({"models": ["lenet", "lenet"]}, "models: lenet is given twice"),
        ({"seeds": 0}, "seeds 0 must be at least 1"),
        ({"epochs": -1}, "epochs -1 must be at least 0"),
        ({"batch_size": 0}, "batch-size 0 must be at least 1"),
        ({"train_fraction": 0.0}, r"train-fraction 0 is outside \(0, 1\]"),
        ({"workers": 0}, "workers 0 must be at least 1"),
        ({"lanes": "many"}, "lanes=many is neither a whole number nor auto"),
        ({"budget": 0.0}, r"budget 0 is outside \(0, 1\]"),
        ({"budget": 2}, r"budget 2 is outside \(0, 1\]"),
    ],
)
def test_mistakes(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sweep(**keys)


@pytest.mark.parametrize(
    ("argument", "seeds"),
    [(2, [0, 1]), ("2", [0, 1]), ([5, 0], [5, 0]), ("5, 0", [5, 0]), ("5,", [5]), (range(3, 5), [3, 4])],
)
def test_seeds_are_a_number_or_a_list(argument: Any, seeds: list[int]) -> None:
    snip: Any = [(SNIP, OneShot())]
    trials = [
        expand(Sweep(sparsities=[0.5], seeds=value), snip, [(data("digits"), network("lenet"), SHORT, 100)])
        for value in (argument, seeds[:1])
    ]
    assert [trial.seed for trial in trials[0]] == [seed for seed in seeds for _ in range(2)]
    assert [trial.identity for trial in trials[0][:2]] == [trial.identity for trial in trials[1]]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ([], "seeds: the list is empty or has a negative seed"),
        ([1, -1], "seeds: the list is empty or has a negative seed"),
        ([1, 1.0], "seeds: 1 is given twice"),
        (["many"], "seeds=many is not a whole number"),
        ("0,,1", "seeds: the list is empty or has an empty entry"),
        (",", "seeds: the list is empty or has an empty entry"),
        (None, "seeds=None is not a whole number"),
        ({"a": 1}, "seeds=a is not a whole number"),
    ],
)
def test_mistakes_in_seeds(argument: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sweep(seeds=argument)


def test_a_variant_is_in_the_name_of_a_trial() -> None:
    shuffled = trial(variant="shuffle")
    assert shuffled.method == "snip + shuffle"
    assert shuffled.identity.startswith("digits-lenet-5-caffe-snip_shuffle-0.95-s0-")
    assert shuffled.identity != trial().identity
    assert (trial().method, trial(criterion=None, sparsity=0.0).method) == ("snip", "dense")


IDENTITIES = {
    "gmp": "digits-lenet-300-100-gmp-0.9-s0-bb53ff91c176",
    "imp": "digits-lenet-300-100-imp-0.9-s0-e3baa2644b25",
    "rigl": "digits-lenet-300-100-rigl-0.9-s0-5b7d3e4a796b",
    "set": "digits-lenet-300-100-set-0.9-s0-937bedefecea",
    "dense": "digits-lenet-300-100-dense-0-s0-bc48ac4499ad",
    "cnip": "digits-lenet-300-100-cnip-0.9-s0-c0eb8726fb8e",
    "cnip-it": "digits-lenet-300-100-cnip-it-0.9-s0-24d047127c33",
    "er": "digits-lenet-300-100-er-0.9-s0-881a99c38d22",
    "erk": "digits-lenet-300-100-erk-0.9-s0-f84ecbe92d8b",
    "force": "digits-lenet-300-100-force-0.9-s0-0a23280b8cce",
    "grasp": "digits-lenet-300-100-grasp-0.9-s0-3b18f97d55b4",
    "iter-snip": "digits-lenet-300-100-iter-snip-0.9-s0-0827b7a72e07",
    "magnitude": "digits-lenet-300-100-magnitude-0.9-s0-ef408ed87b37",
    "random": "digits-lenet-300-100-random-0.9-s0-23bd33fd507d",
    "snip": "digits-lenet-300-100-snip-0.9-s0-f0619be08974",
    "snip-it": "digits-lenet-300-100-snip-it-0.9-s0-31eb241dfc61",
    "synflow": "digits-lenet-300-100-synflow-0.9-s0-2d66dabd7f42",
    "3sp": "digits-lenet-300-100-3sp-0.9-s0-8d10a88bfc38",
    "group:of=magnitude": "digits-lenet-300-100-group_of=magnitude-0.9-s0-4e229a0aac25",
    "snap": "digits-lenet-300-100-snap-0.9-s0-2e5d8721a4b7",
    "snap-it": "digits-lenet-300-100-snap-it-0.9-s0-0be2eaf64be9",
    "structured-random": "digits-lenet-300-100-structured-random-0.9-s0-9bddded15ad4",
    "snip + shuffle": "digits-lenet-300-100-snip_shuffle-0.9-s0-a57562f5bd7c",
    "snip + reinit": "digits-lenet-300-100-snip_reinit-0.9-s0-79f1d59b7440",
    "snip + quota:erk": "digits-lenet-300-100-snip_quota_erk-0.9-s0-ce229828a363",
}


def builtin() -> list[str]:
    """The criteria of the project, without those that other tests may have registered."""
    return [plugin.name for plugin in CRITERIA.plugins() if plugin.target.__module__.startswith("pai_criteria.")]


def test_identities_of_all_criteria_are_pinned() -> None:
    """Results are found again by these names, options that came later left out."""
    keys: dict[str, Any] = {"models": ["lenet-300-100"], "sparsities": [0.9], "seeds": 1, "protocol": "short"}
    trials = resolve(Sweep(criteria=builtin(), **keys)).trials
    variants = resolve(Sweep(criteria=["snip"], variants=["shuffle", "reinit", "quota:erk"], **keys)).trials[1:]
    assert {trial.method: trial.identity for trial in (*trials, *variants)} == IDENTITIES
    former = {trial.method: trial.former.identity for trial in trials if trial.former}
    assert former == {"group:of=magnitude": "digits-lenet-300-100-group-0.9-s0-5a83cb925ebd"}


@pytest.mark.parametrize(
    "keys",
    [
        {"sparsities": [0.0]},
        {"sparsities": 0.999999},
        {"budget": 1},
        {"train_fraction": 1},
        {"label_noise": 1},
        {"label_noise": 0},
        {"label_noise": "permute", "label_law": "bernoulli"},
        {"validation": 0},
        {"min_per_layer": 0},
        {"epochs": 0},
        *({key: 1} for key in ("seeds", "score_batch", "score_batches", "batch_size", "workers", "lanes")),
        {"seeds": [0]},
        {"seeds": 250_000},  # of two criteria at two sparsities: a million
        {"score_sampling": "class-10"},
        {"compile": True, "together": "stacked"},
    ],
)
def test_settings_at_their_limits(keys: dict[str, Any]) -> None:
    assert {key: getattr(Sweep(**keys), key) for key in keys}.keys() == keys.keys()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"label_noise": -0.1}, r"label-noise -0.1 is outside \[0, 1\]"),
        ({"label_noise": 1.1}, r"label-noise 1.1 is outside \[0, 1\]"),
        ({"label_noise": "shuffle"}, "label-noise=shuffle is neither a number nor permute"),
        (
            {"label_noise": "permute", "label_law": "exact"},
            "label-law exact is for a share of the labels, and label-no",
        ),
        ({"label_law": "half"}, "label-law=half is not one of bernoulli, exact"),
        ({"validation": -0.1}, r"validation -0.1 is outside \[0, 1\)"),
        ({"validation": 1.0}, r"validation 1 is outside \[0, 1\)"),
        ({"train_fraction": 1.1}, r"train-fraction 1.1 is outside \(0, 1\]"),
        ({"budget": -0.5}, r"budget -0.5 is outside \(0, 1\]"),
        ({"min_per_layer": -1}, "min-per-layer -1 must be at least 0"),
        ({"min_per_layer": 2.5}, "min-per-layer 2.5 is neither a whole number nor a share below 1"),
        *(
            ({key: 0}, f"{key.replace('_', '-')} 0 must be at least 1")
            for key in ("score_batch", "score_batches", "lanes")
        ),
        ({"seeds": 250_001}, "a sweep of 1,000,004 trials is too large, the most is 1,000,000: give fewer seeds"),
        ({"score_sampling": "class-"}, "score-sampling 'class-' is not balanced, random or class-N"),
        ({"score_sampling": "balanced-1"}, "score-sampling 'balanced-1' is not"),
        ({"compile": True, "together": "branches"}, "together branches cannot be compiled"),
    ],
)
def test_settings_beyond_their_limits(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sweep(**keys)


@pytest.mark.parametrize(
    ("keys", "by_name", "foreign"),
    [
        ({}, True, False),
        ({"criteria": [object()]}, False, False),
        ({"models": [print]}, False, False),
        ({"data": [object()]}, False, False),
        ({"variants": [object()]}, False, False),
        ({"criteria": ["./a.py:Mine"]}, True, True),
        ({"criteria": ["snip:bn=train"]}, True, False),
        ({"variants": ["quota:./a.py:Mine"]}, True, True),
        ({"models": ["torchvision:resnet18"]}, True, True),
        ({"data": ["folder:pets"]}, True, False),
    ],
)
def test_what_other_processes_find_and_whose_code_it_is(keys: dict[str, Any], by_name: bool, foreign: bool) -> None:
    made = Sweep(**keys)
    assert (made.by_name, made.has_foreign_code) == (by_name, foreign)


def test_every_setting_goes_into_the_trials_that_it_concerns() -> None:
    common = {"init": "tn", "label_noise": 0.5, "validation": 0.25, "train_fraction": 0.75}
    common |= {"label_law": "exact", "subset": "balanced", "length": "steps"}
    scoring = {"score_sampling": "random", "score_batches": 2, "target": "effective", "min_per_layer": 3}
    scoring |= {"repair": "effective-only", "prunable": "fc*", "keep_first": True, "keep_last": True}
    scoring |= {"score_labels": "noisy"}
    sweep = Sweep(sparsities=[0.5], seeds=1, **common, **scoring)  # type: ignore[arg-type]
    quota, plain = "quota:er", "shuffle"
    networks = [(data("digits"), network("net", 2, ("own",)), SHORT, 7)]
    snip: Any = [(dataclasses.replace(SNIP, scope="layerwise"), OneShot())]
    dense, *pruned = expand(sweep, snip, networks, [get_variant(plain), get_variant(quota)])
    for trial in (dense, *pruned):
        assert {key: getattr(trial, key) for key in common} == common
        assert (trial.data, trial.model) == (data("digits"), network("net", 2, ("own",)))
    assert [(trial.variant_name, trial.scope) for trial in pruned] == [(plain, "layerwise"), (quota, "quota")]
    for trial in pruned:
        assert {key: getattr(trial, key) for key in scoring} == scoring
        assert trial.configuration().items() >= {**common, **scoring, "score_batch": 7, "traced": ["own"]}.items()
        assert "scope" not in trial.configuration()["criterion"]
    assert dense.configuration().keys() & {*scoring, "scope", "score_batch", "traced", "variant"} == set()
    assert expand(Sweep(scope="global", train_fraction=None), snip, networks)[1].scope == "global"
    short = dataclasses.replace(SHORT, train_fraction=0.5)
    assert expand(Sweep(), snip, [(data("digits"), network("net"), short, 7)])[1].train_fraction == 0.5
    with pytest.raises(UserError, match="a criterion cannot be called 'dense'"):
        expand(sweep, [(Choice(name="dense"), OneShot())], networks)  # type: ignore[list-item]


def test_a_trial_by_other_names_of_its_criterion_or_quota() -> None:
    assert trial(criterion=None, sparsity=0.0).former is None
    assert trial().former is None
    mine = Choice(name="Mine@new", text="Mine@new:x=1", renamed=("Mine@new", "Mine@old"))
    for now, before in (
        (trial(criterion=mine), trial(criterion=Choice(name="Mine@old:x=1"))),
        (trial(variant=Named("quota:Mine@new", quota=mine)), trial(variant="quota:Mine@old")),
    ):
        assert now.former is not None
        assert now.former.configuration() == before.configuration() != now.configuration()
        assert now.former.identity == before.identity


def test_a_whole_number_has_one_identity_however_it_is_given() -> None:
    made = [Sweep(min_per_layer=value).min_per_layer for value in ("3", "3.0", 3, 3.0, "0.5", 0.5)]  # type: ignore[arg-type]
    assert [(type(value), value) for value in made] == [(int, 3)] * 4 + [(float, 0.5)] * 2


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *(("5", "5"), (" 05", "5"), ("2 %", "2%"), ("2.50%", "2.5%"), ("1e1%", "10%"), ("33.3333333%", "33.3333333%")),
        *(("00", "0"), (7, "7"), ("0%", "0%"), ("5 steps", "5 steps"), ("2%%", "2%%"), ("%", "%")),
    ],
)
def test_a_time_to_prune_is_kept_in_one_way(given: Any, kept: str) -> None:
    assert Sweep(prune_at=given).prune_at == kept


def test_weights_of_smaller_networks_that_are_drawn_again_are_another_revision() -> None:
    """Earlier versions drew them in another way."""
    revisions = [
        trial(criterion=get_criterion(name), variant=get_variant(variant)).configuration()["criterion"]["revision"]
        for name, variant in itertools.product(("snap", "snip"), ("none", "shuffle", "reinit"))
    ]
    assert revisions == [1, 1, 2, 1, 1, 1]


@pytest.mark.parametrize("options", ["", ":reduce=l2", ":bn=train:reduce=mean"])
def test_groups_of_magnitude_were_stored_without_the_name_of_magnitude(options: str) -> None:
    """Their results are read as before; those of other criteria always had the name."""
    one = trial(criterion=get_criterion(f"group{options}"))
    assert one.criterion_name.startswith("group:of=magnitude")
    assert get_criterion(one.criterion_name) == one.criterion
    assert one.former is not None
    assert one.former.criterion_name == f"group{options}"
    assert trial(criterion=get_criterion(f"group:of=synflow{options}")).former is None


def test_sweeps_and_trials_do_not_change_and_take_keywords_alone() -> None:
    for made, key, value in ((Sweep(), "epochs", 3), (trial(), "seed", 3)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, key, value)
    with pytest.raises(TypeError):
        Sweep(["snip"])  # type: ignore[call-arg]


@pytest.mark.parametrize("argument", ["snip", lambda *_: None, 0.5])
def test_a_single_value_is_an_axis_of_its_own(argument: Any) -> None:
    key = "sparsities" if argument == 0.5 else "models"
    assert getattr(Sweep(**{key: argument}), key) == (argument,)


def test_a_sweep_by_default() -> None:
    """As the help of `pai-bench run` says; None for what a protocol, a criterion or a data set decides."""
    axes: dict[str, Any]
    settings: dict[str, Any]
    axes = {"criteria": ("snip", "random"), "models": ("lenet",), "data": ("digits",), "sparsities": (0.95, 0.98)}
    axes |= {"variants": ("none",)}
    execution = {"device": "auto", "workers": "auto", "lanes": "auto", "together": "auto", "checkpoint_every": "5m"}
    settings = {"seeds": 3, "bn": "published", "precision": "fp32", "budget": 1.0, "init": "own", "target": "direct"}
    settings |= {
        "score_sampling": "balanced",
        "score_batches": 1,
        "prune_at": "0",
        "prune_when": "given",
        "sparsity_of": "weights",
        "repair": "none",
        "score_labels": "true",
        "subset": "random",
        "length": "epochs",
        "label_law": "bernoulli",
    }
    zero = ["label_noise", "validation", "min_per_layer", "keep_first", "keep_last", "train_disconnected", "compile"]
    zero += ["keep_networks"]
    undecided = ["schedule", "protocol", "epochs", "batch_size", "learning_rate", "weight_decay", "train_fraction"]
    undecided += ["scope", "score_batch", "prunable", "data_dir", "evaluate"]
    expected = axes | execution | settings | dict.fromkeys(zero, 0) | dict.fromkeys(undecided)
    assert dataclasses.asdict(Sweep()) == expected
    assert Sweep(seeds=1).seed_list == range(1)
