"""How the numbers of a report were made, and what limits them wherever they come from: every line."""

import dataclasses
from typing import Any

import pytest

from pai_bench.report import pairs, provenance
from pai_bench.report.summary import comparisons
from pai_bench.results import BenchmarkResult, Layer, Provenance, Record, as_frame
from pai_bench.training.protocol import get_protocol
from tests.made import Choice
from tests.report.records import altered, cost, record
from tests.report.test_benchmarks import result
from tests.report.test_figures_of_masks import collapse
from tests.report.test_limits import PAIR, limits, rows


def made(one: Record, **changes: Any) -> Record:
    """A record with other provenance."""
    return altered(one, provenance={"dirty": False, **changes})


CPU = "CPU; a cpu, 2 threads, Linux; torch 2"


def test_what_a_paper_leaves_open_is_told() -> None:
    (line,) = provenance.departures([record("3sp", 0.9, 0, 0.5), record("3sp:reduce=l2", 0.9, 0, 0.5)])
    assert line.startswith("3sp: pai-bench's reading of the paper, whose abstract defines sensitivity per operation")


def test_every_line_about_origins() -> None:
    environment = cost().environment
    origin: dict[str, Any] = {"command": "pai-bench `x`", "commit": "d"}
    where: dict[str, Any] = {"environment": environment, "provenance": Provenance(**origin)}
    benchmarks: list[BenchmarkResult] = [result(**where), result("er", **where)]
    records = [
        *(made(record("snip", 0.9, seed, 0.5), command="pai-bench *") for seed in range(2)),
        record(None, 0.0, 0, 0.5, environment={"kernels": "cuDNN"}),
        made(record("er", 0.9, 0, 0.5), command="", commit=None, workers=2),
    ]
    assert provenance.provenance(records, [cost()], [collapse("snip", **where)], benchmarks).splitlines() == [
        f"* Timing environment: {CPU} (1 row)",
        "* Timing commit: abc (1 row)",
        "* Collapse command: `` pai-bench `x` `` (1 row)",
        f"* Collapse environment: {CPU} (1 row)",
        "* Collapse commit: d (1 row)",
        "* Benchmark command: `` pai-bench `x` `` (2 rows)",
        f"* Benchmark environment: {CPU} (2 rows)",
        "* Benchmark commit: d (2 rows)",
        "* Command: `pai-bench *` (2 trials)",
        "* Command: `pai-bench run` (1 trial)",
        "* Data: digits (scikit-learn, 28x28), 1,347 training and 450 test examples, checksum 00ff (4 trials)",
        "* Criterion: er: one-shot, global, score batch 100 balanced examples (1 trial)",
        "* Criterion: snip: one-shot, global, score batch 100 balanced examples (2 trials)",
        "* Concurrency: one of 2 worker processes (1 trial)",
        "* Environment: CPU, cuDNN; a cpu, 2 threads, Linux; torch 2 (1 trial)",
        f"* Environment: {CPU} (3 trials)",
        "* Commit: abc (2 trials)",
        "* Commit: abc, with changes that were not committed (1 trial)",
    ]


def test_every_way_to_use_a_criterion_is_told() -> None:
    trial = {
        "criterion": {"name": "grasp", "schedule": "one-shot", "options": [["bn", "train"], ["temperature", 200]]},
        "scope": "global", "score_batch": 50, "score_sampling": "random", "score_batches": 5, "variant": "shuffle",
        "target": "effective", "min_per_layer": 1, "repair": "effective-only", "prunable": "fc*", "traced": ["x", "y"],
        "keep_first": True, "keep_last": True,
    }  # fmt: skip
    one = record("grasp", 0.9, 0, 0.5)
    assert provenance.describe_criterion(dataclasses.replace(one, trial=trial)) == (
        "grasp: one-shot, global, shuffle, target effective, min per layer 1, repair effective-only, prunable fc*, "
        "also x, y, first and last layer kept whole, score batch 5 x 50 random examples; "
        'bn "train", temperature 200'
    )
    trial = {key: trial[key] for key in ("criterion", "scope", "score_batch", "score_sampling", "keep_last")}
    assert provenance.describe_criterion(dataclasses.replace(one, trial=trial)) == (
        'grasp: one-shot, global, last layer kept whole, score batch 50 random examples; bn "train", temperature 200'
    )


def test_every_caveat_about_origins() -> None:
    half, all_of = {"train_fraction": 0.9}, {"protocol": get_protocol("short", budget=0.5)}
    other = {"threads": 1}
    data = {"checksum": "11"}
    records = [
        made(record(None, 0.0, 0, 0.5)),
        made(record(None, 0.0, 1, 0.5), commit="d", dirty=True, workers=2),
        made(record(None, 0.0, 2, 0.5, trial=half), commit=None, data=data),
        made(record("random", 0.9, 0, None, environment=other, **all_of)),
    ]
    found = comparisons(as_frame(records[:1]))
    assert provenance.caveats(found, records, [[]]) == [
        "Failed, in no mean, and listed above: 1 trial.",
        "net on digits: 1 seed: no difference can be distinguished from chance.",
        "50 % of the protocol's length was trained: accuracies at full length may rank differently.",
        "1 trial ran with changes that were not committed: no commit holds that code.",
        "Some trials ran outside a git checkout; only the version is known.",
        "Trials ran at 2 commits, which are listed below.",
        "digits is the name of 2 different data sets here.",
        "90 % of a training set were used: numbers that were published of another part of it are not comparable.",
        "Trials ran in 2 environments: their times are not comparable.",
        "Trials ran beside others on one machine: their seconds are those of a busy machine.",
    ]
    assert provenance.caveats([], records[:1], []) == []
    assert provenance.caveats([], [made(records[0], workers=1)], []) == []


def test_versions_in_another_order_are_of_one_environment() -> None:
    versions = {"python": "3", "torch": "2"}
    orders = (versions, dict(reversed([*versions.items()])))
    records = [made(record(None, 0.0, 0, 0.5, environment={"versions": order})) for order in orders]
    assert provenance.caveats([], records, []) == []


def test_what_authors_did_otherwise_is_counted_by_trials() -> None:
    """Of two trials of SNIP, one does what its authors' code does."""
    options = (("score_init", "redrawn"), ("biases", True))
    own = Choice(name="snip", options=options)
    ties = {"criterion": Choice(name="synflow", options=(("ties", "remove"),))}
    records = [
        record("snip", 0.9, 0, 0.5, trial={"criterion": own, "score_sampling": "random"}),
        record("snip", 0.9, 1, 0.5),
        record("force", 0.9, 0, 0.5),
        record("synflow:ties=remove", 0.9, 0, 0.5, trial=ties),
        record("random", 0.9, 0, 0.5),
        record(None, 0.0, 0, 0.5),
    ]  # fmt: skip
    start, end = "snip: its authors' code", "; here it does not, in 1 of 2 trials."
    assert provenance.departures(records) == [
        "force: its authors' code applies the negative log-likelihood to raw logits, a bug; here it does not.",
        f"{start} counts biases in its budget{end}",
        f"{start} draws its score batch at random{end}",
        f"{start} scores another draw of the initialisation than the one that is trained{end}",
    ]


def test_grasp_in_two_halves_is_as_in_its_authors_code() -> None:
    said = "grasp: its authors' code takes the gradients of two halves of the score batch, sorted by class"
    for halves in (True, False):
        choice = Choice(name="grasp", options=(("score_init", "redrawn"), ("halves", halves)))
        departures = provenance.departures([record("grasp", 0.9, 0, 0.5, trial={"criterion": choice})])
        assert departures == [f"{said}; here it does not."] * (not halves)


@pytest.mark.parametrize(
    ("size", "found", "told"),
    [(50, 0.921, "0.921"), (50, 0.919, ""), (50, 0.87, "0.87"), (10_000, 0.9011, "0.9011"), (10_000, 0.9009, "")],
)
def test_masks_that_keep_more_or_fewer_than_asked_for(size: int, found: float, told: str) -> None:
    """More than a connection of 50, or than one per cent of a tenth, away."""
    layers = (Layer(name="a", size=size, kept=5),)
    snip = rows("snip", 5, achieved_sparsity=found, layers=layers)
    said = limits([*rows(None, 5, 0.95), *snip, *rows("random", 5, 0.5)])
    line = f"snip at 0.9 removed {told} of the weights: equal scores, or weights of one unit, go together."
    assert said == [PAIR, *([line] if told else [])]
    effective = [dataclasses.replace(one, trial={**one.trial, "target": "effective"}) for one in snip]
    assert limits([*rows(None, 5, 0.95), *effective, *rows("random", 5, 0.5)]) == [PAIR]


def test_lines_are_in_the_order_of_the_results() -> None:
    layers = (Layer(name="a", size=50, kept=5),)
    names = ("snip", "er", "random")
    found = [one for name in names for one in rows(name, 5, achieved_sparsity=0.8, layers=layers)]
    told = [line.split()[0] for line in limits([*rows(None, 5, 0.95), *found]) if "equal scores" in line]
    assert told == list(names)


def test_networks_that_were_not_trained() -> None:
    said = limits([*rows(None, 5, 0.95, epochs=0), *rows("snip", 5, epochs=0), *rows("random", 5, 0.5, epochs=0)])
    assert said == ["no network was trained: accuracies are those of initial weights."]


def test_pairs_that_were_not_tested_do_not_count_as_tests() -> None:
    """Of three pairs one has the same difference in all seeds: t(1 - 0.025 / 2, 4) / sqrt(5) = 3.495 / 2.236."""
    snip = rows("snip", 5)
    same = [record("erk", 0.9, one.trial["seed"], (one.evaluation.test_accuracy or 0) - 0.02) for one in snip]
    (found,) = comparisons(as_frame([*rows(None, 5, 0.95), *snip, *same, *rows("random", 5, 0.5)]))
    first, *others = provenance.limits(found, pairs.pairs(found))
    assert first.startswith("5 seeds and 2 pairs: ")
    assert first.endswith(" at least 1.56 times the standard deviation of the paired differences.")
    assert others == ["1 pair of criteria could not be tested."]
