"""Tables of pairs and of published numbers, and what is said of them: whole texts by hand."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from pai_bench.report import benchmarks, findings, literature, pairs, published_numbers
from pai_bench.report.literature import Match
from pai_bench.report.pairs import Pair
from pai_bench.report.published_numbers import Published
from pai_bench.report.statistics import Difference, Estimate, estimate
from pai_bench.report.versions import newest
from pai_bench.results import as_frame
from tests.made import Choice
from tests.report.records import ENVIRONMENT, cost, drawn, record
from tests.report.test_benchmarks import result
from tests.report.test_figures import compared
from tests.report.test_pairs import fallen


def test_a_whole_table_of_pairs() -> None:
    """Of snip minus er 3.0, 3.2, 3.1, 2.9 and 3.1: t = 3.06 / (0.114018 / sqrt(5)) = 60.01, and all signs are equal."""
    values: dict[str, list[float | None]] = {
        "snip": [0.971, 0.972, 0.974, 0.973, 0.970], "er": [0.941, 0.940, 0.943, 0.944, 0.939], "erk": [0.5, 0.6]
    }  # fmt: skip
    found = pairs.pairs(compared([record(n, 0.9, s, a) for n, row in values.items() for s, a in enumerate(row)]))
    head, *body = (" | ".join(row) for row in pairs.table(found))
    assert (
        head
        == "sparsity | criteria | difference | 95 % interval | seeds | detectable | seeds needed | effect d_z | p | "
        "p, Holm | signed rank p | "
    )
    assert body == [
        # p is 4.6e-7, of one test; s = 0.114, and five seeds find an effect of 1.68
        "0.9 | snip – er | 3.06 | 2.92 to 3.20 | 5 | 0.19 | 3 | 26.84 | 4.6e-07 | 4.6e-07 | 0.062 | differ",
        # 47.1 and 37.2: s = 7.0004, t(0.975, 1) s / sqrt(2) = 62.90; no difference is above 100 points
        "0.9 | snip – erk | 42.15 | -20.75 to 100.00 | 2 | – | – | 6.02 | – | – | 0.5 | fewer than 3 seeds",
        # 44.1 and 34.0: s = 7.1418, half of the interval 64.17
        "0.9 | er – erk | 39.05 | -25.12 to 100.00 | 2 | – | – | 5.47 | – | – | 0.5 | fewer than 3 seeds",
    ]
    assert pairs.power(found) == (
        "Tests: paired t over seeds, two-sided, Holm's correction over the 1 pair of this network and data set, so "
        "that in 5 % of such families at most chance alone would be called a difference; the intervals are not "
        "corrected. The exact signed-rank test, which does not assume normal differences, is given too, "
        "uncorrected. With the 5 seeds of all it cannot give less than 0.0625, which would not reject after the "
        "correction: there, the t test relies on normal differences. Detectable is the smallest difference that as "
        "many seeds find in 80 % of studies after the correction, if differences vary as they do here: 0.192 points in "
        "the median, 0.192 to 0.192; seeds needed are those that would find the observed one so. 2 pairs could not be "
        "tested: fewer than 3 seeds (2)."
    )
    assert pairs.power([]) is None


def test_seeds_that_are_too_few_for_the_signed_ranks_are_counted_pair_by_pair() -> None:
    """Of snip and er five seeds, of each with erk four."""
    values = {"snip": [0.971, 0.972, 0.974, 0.973, 0.970], "er": [0.941, 0.940, 0.943, 0.944, 0.939]}
    values["erk"] = [0.51, 0.52, 0.55, 0.53]
    found = pairs.pairs(compared([record(n, 0.9, s, a) for n, row in values.items() for s, a in enumerate(row)]))
    assert (
        " With the 4 to 5 seeds of all it cannot give less than 0.0625, which would not reject after the correction: "
        "there, the t test relies on normal differences."
    ) in str(pairs.power(found))


def test_of_equal_means_the_first_criterion_stands_first() -> None:
    records = [record(name, 0.9, seed, 0.5 + 0.01 * seed) for name in ("snip", "er") for seed in range(3)]
    (pair,) = pairs.pairs(compared(records))
    assert (pair.better, pair.worse) == ("snip", "er")


def test_what_the_signed_ranks_decide_is_said() -> None:
    """Of six pairs, four have a seed at chance, for which eight seeds would be needed; 6 / 2^5 is above 0.05."""
    start = "Holm's correction over the 6 pairs of this network"
    text = str(pairs.power(pairs.pairs(fallen(6))))
    assert start in text
    assert (
        " difference; the intervals are not corrected. Where seeds are at chance or disconnected (4 pairs), "
        "differences are not normal, and the exact signed-rank test takes the place of the t test. To reject after the "
        "correction it takes 8 seeds, which 4 pairs of these lack. The exact signed-rank test, which"
    ) in text
    assert (
        "uncorrected. With the 6 seeds of 2 pairs it cannot give less than 0.0312, which would not reject after the "
        "correction: there, the t test relies on normal differences. Detectable is"
    ) in text
    enough = str(pairs.power(pairs.pairs(fallen(8))))
    assert "To reject" not in enough
    assert "is given too, uncorrected. Detectable is the smallest difference" in enough


def pair(mean: float, p: float = 0.01, corrected: float | None = None, **changes: Any) -> Pair:
    """A pair of a and b, over nine seeds, with an interval of a point to either side."""
    found = Difference(Estimate(mean, 1.0, mean - 1, mean + 1, changes.pop("seeds", 9), "t"), p, 0.1, 1.0)
    found = dataclasses.replace(found, constant=changes.pop("constant", False))
    return Pair(0.9, "a", changes.pop("worse", "b"), found, p, p if corrected is None else corrected, **changes)


def test_every_verdict_in_its_order() -> None:
    nan = math.nan
    against = {
        "i": pair(9, nan, untrained=("a",)),
        "h": pair(8, nan, untrained=("h",)),
        "g": pair(7, nan, constant=True),
        "f": pair(6, nan, seeds=2),
        "e": pair(5, 0.06),
        "n": pair(0.2, 0.9, equal_p=0.05, margin=0.5),
        "m": dataclasses.replace(pair(5, 0.06), better="m"),
        "d": pair(4, 0.05, 0.051),
        "c": dataclasses.replace(pair(3), better="c"),
        "b, x": pair(2, corrected=0.05),
        "b": pair(1, collapsed="1 of 9 seeds of b at chance", needed=9),
        "k": pair(1, 0.06, collapsed="1 of 9 seeds of k at chance", needed=10),
    }
    assert findings.compared("a", against) == (
        "it beats “b, x” by 2.00 points (1.00 to 3.00) and b by 1.00 points (1 of 9 seeds of b at chance); over the "
        "seeds of both it is beaten by c by 3.00 points (2.00 to 4.00); it is equal to n (0.20, -0.80 to 1.20; "
        "within 0.5); before correction alone it differs from d (4.00, 3.00 to 5.00); it is not distinguishable "
        "from e (5.00, 4.00 to 6.00) and m (-5.00, -6.00 to -4.00); "
        "too few seeds for a verdict on f (6.00) and k (1.00; 1 of 9 seeds of k at chance: a verdict takes 10); it "
        "could not be tested against g (7.00, the same difference for all seeds); "
        "it is not compared with h, which did not train (the training loss is "
        "still that of chance); it is not compared with i: over the seeds of both, half of the networks or more did "
        "not train; 2 to 9 seeds"
    )
    assert findings.compared("a", {}) == ""
    assert findings.listing(["x", "y", "z"]) == "x, y and z"


def test_what_is_within_a_margin_is_equal() -> None:
    """Of snip minus er 0.1 ± 0.1414 over five seeds, (0.1 - 0.5) sqrt(5) / 0.1414 = -6.32: p = 0.0016, of 3 tests."""
    snip, er = [0.971, 0.972, 0.974, 0.973, 0.970], [0.970, 0.971, 0.975, 0.970, 0.969]
    values = {"snip": snip, "er": er, "erk": [0.9, 0.8, 0.7, 0.9, 0.8]}
    rows = [record(name, 0.9, seed, a) for name, row in values.items() for seed, a in enumerate(row)]
    without, found = pairs.pairs(compared(rows)), pairs.pairs(compared(rows), margin=0.5)
    assert [one.corrected for one in found] == [one.corrected for one in without]
    equal = {(one.better, one.worse): one.equal for one in found}
    assert equal == {("snip", "er"): True, ("snip", "erk"): False, ("er", "erk"): False}
    assert not any(one.equal for one in without)
    assert found[0].equal_p == pytest.approx(3 * 0.0016, rel=0.03)
    assert pairs.table(found)[1][-1] == "equal"
    assert "Equal means: within 0.5 points, by two one-sided t tests" in str(pairs.power(found))
    assert "Equal means" not in str(pairs.power(without))
    assert any(
        "it is equal to er (0.10, -0.08 to 0.28; within 0.5)" in line
        for line in findings.sentences(compared(rows), found)
    )


def test_sentences_of_several_sparsities() -> None:
    """Of two criteria without a common seed, and of one alone."""
    records = [
        record("snip", 0.9, 0, 0.7),
        record("er", 0.9, 1, 0.6),
        record("snip", 0.95, 0, None),
        record("er", 0.98, 0, 0.3),
    ]
    found = compared(records)
    assert findings.sentences(found, pairs.pairs(found)) == [
        "At sparsity 0.9, snip has the highest mean accuracy, 70.00 %; no other criterion has results there "
        "with common seeds.",
        "At sparsity 0.98, er has the highest mean accuracy, 30.00 %; no other criterion has results there.",
    ]


def published(**changes: Any) -> Published:
    values: dict[str, Any] = {
        "source": "a paper", "table": "Table 1", "data": "mnist", "model": "net", "criterion": "snip", "sparsity": 0.9,
        "accuracy": 97.0, "deviation": 0.3, "seeds": 5, "selection": "last", "note": "",
    }  # fmt: skip
    return Published(**values | changes)


def test_a_whole_table_of_published_numbers() -> None:
    last, best = estimate([96.0, 97.0, 98.0]), estimate([97.5, 98.0, 98.5])
    other = {"sparsity": 0.895, "seeds": None, "deviation": math.nan, "selection": "max of all", "note": "a note"}
    rows = [
        Match(published(), "snip", 0.9, last, best),
        Match(published(**other), "snip", 0.9, last, best),
        Match(published(criterion="dense", accuracy=11.7), "dense", 0.0, estimate([97.0]), best, classes=10),
        Match(published(accuracy=11.9, seeds=1), "snip", 0.9, last, best, collapsed=2, classes=10),
    ]  # fmt: skip
    head, *body = (" | ".join(row) for row in literature.table(rows))
    assert head == (
        "criterion | sparsity (/ theirs) | ours, last epoch | ours, best on test | published | epoch | difference | "
        "inside our spread | source"
    )
    assert body == [
        "snip | 0.9 | 97.00 ± 1.00 (3) |  | 97.00 ± 0.30 (5) | last | +0.00 | yes | a paper, Table 1",
        "snip | 0.9 / 0.895 | 97.00 ± 1.00 (3) | 98.00 ± 0.50 (3) | 97.00 | max of all | +1.00 | yes | "
        "a paper, Table 1; a note",
        # 2 % of the way from 10 to 100 % are 11.8 %
        "dense | 0 / 0.9 | 97.00 (1) |  | 11.70 ± 0.30 (5), at chance | last | +85.30 | too few seeds | "
        "a paper, Table 1",
        "snip | 0.9 | 97.00 ± 1.00 (3) |  | 11.90 ± 0.30 (1) | last | +85.10 | 2 seeds at chance | a paper, Table 1",
    ]
    # t(0.975, 2) sqrt(1 / 3 + 1 / 5) = 3.142 deviations, of k = 1 run 4.968
    for seeds, end in ((5, 3.142), (1, 4.968), (None, 4.968)):
        inside = [
            Match(published(accuracy=97 + x, seeds=seeds), "snip", 0.9, last, best).inside
            for x in (end - 0.001, end + 0.001)
        ]
        assert inside == ["yes", "no"]
    assert literature.at_chance(published(accuracy=51.0), 2)  # 2 % of the way from 50 to 100 %
    assert not literature.at_chance(published(accuracy=51.1), 2)
    assert not literature.at_chance(published(data="unknown", accuracy=0.0), math.nan)


def test_protocols_side_by_side() -> None:
    changes: dict[str, Any] = {"init": "t*n", "protocol_parts": ("10 epochs", "a *b* (c, d)"), "train_fraction": 0.5}
    found = dataclasses.replace(compared([record("snip", 0.9, 0, 0.5)]), **changes)
    known = published(source="arXiv:1810.02340")
    last = estimate([96.0])
    rows = [Match(one, "snip:bn=train", 0.9, last, last) for one in (known, known, published())]
    theirs = (
        "100,000 iterations, batch 100, SGD, learning rate 0.1 (steps at 0.25, 0.5, 0.75, times 0.1), momentum 0.9, "
        "weight decay 0.0005, 90 % of the training set"
    )
    ours = r"10 epochs, a \*b\* (c, d), 50 % of the training set"
    assert list(literature.protocols(rows, found)) == [
        f"Ours: {ours}.",
        "snip:bn=train: beside published numbers of snip. Ours has the option bn=train.",
        "Ours start from weights drawn by `t*n`; how those of the published networks were drawn is not known to us "
        "where their note does not say it.",
        f"arXiv:1810.02340: {theirs} (`snip-mnist`); the number of iterations is not in the paper, 100,000 is our "
        f"choice. What differs: {theirs}; ours: {ours}.",
        "a paper: protocol not known to us.",
    ]
    assert literature.contrast(["a", "b"], ["a", "b"]) == "Ours are the same."
    assert literature.contrast(["a"], ["a", "b"]) == "What differs: b; ours: nothing more."
    assert literature.contrast(["a", "b"], ["a"]) == "What differs: nothing more; ours: b."


@pytest.mark.parametrize(
    "change",
    [{"variant": "shuffle"}, {"scope": "layerwise"}, {"target": "effective"}, {"min_per_layer": 1},
     {"label_noise": 0.1}, {"repair": "effective-only"}, {"prunable": "fc*"}, {"score_sampling": "class-0"},
     {"validation": 0.1}, {"length": "steps"}, {"criterion": Choice(name="snip", schedule="linear:steps=2")}],
    ids=str,
)  # fmt: skip
def test_no_published_number_stands_beside_another_use(change: dict[str, Any]) -> None:
    trial = {"data": "mnist", "model": "lenet-300-100"}
    usual = as_frame([drawn("snip", 0.98, 0, 0.9, trial=trial)])
    assert literature.as_published(usual)
    assert not literature.as_published(as_frame([drawn("snip", 0.98, 0, 0.9, trial=trial | change)]))
    dense = {key: value for key, value in change.items() if key in ("label_noise", "validation", "length")}
    assert literature.as_published(as_frame([drawn(None, 0.0, 0, 0.9, trial=trial | dense)])) is not bool(dense)


def test_published_files_are_read_as_they_are() -> None:
    """The first lines of both: test errors of 1.7 and 1.6 %, and what is not there."""
    first, rival = published_numbers.published()[0], published_numbers.quoted()[0]
    assert math.isnan(first.deviation)
    assert dataclasses.replace(first, deviation=0.0) == Published(
        source="arXiv:1810.02340 (ICLR 2019)", table="Table 1", data="mnist", model="lenet-300-100", criterion="dense",
        sparsity=0.0, accuracy=100 - 1.7, deviation=0.0, seeds=None, selection="max over kept checkpoints", note="",
    )  # fmt: skip
    assert (rival.criterion, rival.accuracy) == ("LWC", 98.4)
    assert rival.sparsity == pytest.approx(0.917)
    assert first.initialisations == (None, "own")
    one = published(note="score initialisation tn; training initialisation vs-x; Adam 1e-3", source="arXiv:1810.02340")
    assert one.initialisations == ("tn", "vs-x")
    assert one.protocol == "snip-mnist-adam"
    assert published(source="arXiv:1810.02340", data="cifar10").protocol == "snip-cifar"
    assert published(source="x arXiv:1810.02340").protocol is None
    row = {"source": "any", "model": "resnet-50", "note": ""}
    assert published_numbers.our_name("model", row | {"dataset": "imagenet"}) == "resnet-50 (7x7 stem)"
    assert published_numbers.our_name("model", row | {"dataset": "cifar10"}) == "resnet-50"
    every = [(one.source, one.data, one.model, one.criterion, one.sparsity) for one in published_numbers.published()]
    rewound = [one for one in every if "2003.02389" in one[0]]
    assert len(rewound) == len(set(rewound)) == 321
    assert sum("one-shot" in one[3] for one in rewound) > 100
    assert not published(selection="last of max").best_on_test


def test_costs_of_other_machines_and_precisions_are_no_older_versions() -> None:
    """A higher revision is newer, but only of what is the same but for it, at whatever sparsity and seed."""
    raised = {"criterion": {"name": "snip", "schedule": "one-shot", "revision": 2, "options": []}}
    old, new = cost({"sparsity": 0.5, "seed": 3}), cost(raised)
    others = [
        cost(environment=dataclasses.replace(ENVIRONMENT, threads=1)),
        cost(precision="tf32"),
        cost({"score_batch": 3}),
    ]
    assert newest([old, *others, new]) == ([*others, new], ["snip, revision 1"])


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("seconds", 1e-4, "0.1 ms"), ("seconds", 0.99e-4, "99 µs"), ("x", 9999.5, "1e+04"), ("x", 10000.4, "10,000"),
        ("x", -20000.5, "-20,000"), ("x", 3.0, "3"), ("x", 1e15, "1e+15"), ("x", 9e14, "900,000,000,000,000"),
        ("x", 1.25, "1.25"), ("x", None, ""), ("bytes of it", 2.5, "2.5"),
    ],
)  # fmt: skip
def test_numbers_of_checks(key: str, value: Any, text: str) -> None:
    assert benchmarks.written(key, value) == text


def test_the_section_of_checks(drawings: list[Any]) -> None:
    """Of what has no number for a bar there is no figure; a limit that not all share stands in the cells."""
    rows = [
        result("10 a*"),
        result("2 a*", status="measured", limits={"mlp": 1e-4}, bar=None),
        result("er", values={"largest": None}, status="failed", reason="x|y", group="other"),
        result("gpu", device="cuda", environment=dataclasses.replace(ENVIRONMENT, device="A | B"), status="skipped"),
    ]
    parts = benchmarks.section(rows, Path(), lambda title: Path(f"{title}.svg"))
    assert parts == [
        "## What was checked and measured",
        benchmarks.CAPTION,
        "| stage | device | passed | failed | skipped | measured |\n| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| correct | A \\| B | 0 | 0 | 1 | 0 |\n| correct | a cpu | 1 | 1 | 0 | 1 |",
        "**Failed**",
        r"* correct: other, a cpu, er: x\|y",
        "### correct: other, a cpu",
        "|  | result | largest (≤ 0.0001) | note |\n| --- | ---: | ---: | ---: |\n| er | failed |  | x\\|y |",
        r"### correct: scores, A \| B",
        "|  | result | mlp (≤ 0.0001) | largest (≤ 0.0001) |\n| --- | ---: | ---: | ---: |\n"
        "| gpu | skipped | 1e-06 | 2e-05 |",
        r"![correct: scores, A \| B: largest](measured correct: scores, A | B.svg)",
        "### correct: scores, a cpu",
        "|  | result | mlp (≤ 0.0001) | largest |\n| --- | ---: | ---: | ---: |\n"
        "| 2 a\\* | measured | 1e-06 | 2e-05 |\n| 10 a\\* | passed | 1e-06 | 2e-05 (≤ 0.0001) |",
        "![correct: scores, a cpu: largest](measured correct: scores, a cpu.svg)",
    ]
    assert [len(drawing.axes[0].patches) for drawing in drawings] == [1, 1]
