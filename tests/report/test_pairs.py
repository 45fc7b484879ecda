"""Which criteria are told apart, what is said of it, and ranks over networks."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import pai_bench as pb
from pai_bench.report import findings, pairs, provenance, rankings
from pai_bench.report.page import write_report
from pai_bench.report.summary import Comparison, comparisons, plural
from pai_bench.results import Record, Store, as_frame
from tests.experiment.test_runner import sweep
from tests.report.records import drawn, record


def compared(accuracies: dict[str, list[float]], sparsity: float = 0.9) -> Comparison:
    """A comparison of some criteria at one sparsity, accuracies by seed."""
    records = [record(name, sparsity, seed, a) for name, row in accuracies.items() for seed, a in enumerate(row)]
    (found,) = comparisons(as_frame(records))
    return found


def test_a_difference_is_said_in_points() -> None:
    comparison = compared({"snip": [0.971, 0.972, 0.974, 0.973, 0.970], "random": [0.941, 0.940, 0.943, 0.944, 0.939]})
    (pair,) = pairs.pairs(comparison)
    assert (pair.better, pair.worse, pair.significant) == ("snip", "random", True)
    # differences 3.0, 3.2, 3.1, 2.9, 3.1: mean 3.06, s 0.11402, t(0.975, 4) s / sqrt(5) = 0.14157
    assert pair.points() == "3.06 points (2.92 to 3.20)"
    (line,) = findings.sentences(comparison, [pair])
    start = "At sparsity 0.9, snip has the highest mean accuracy, 97.20 %"
    assert line == f"{start}: it beats random by 3.06 points (2.92 to 3.20); 5 seeds."


def test_a_mean_over_fewer_seeds_than_in_the_table_says_so() -> None:
    comparison = compared({"snip": [0.95, 0.97, 0.96], "random": [0.9]})
    (line,) = findings.sentences(comparison, pairs.pairs(comparison))
    assert line.startswith("At sparsity 0.9, snip has the highest mean accuracy, 95.00 % over the 1 seed that all have")


def test_equal_means_are_both_named() -> None:
    comparison = compared(
        {"snip": [0.8, 0.9, 1.0, 0.85, 0.95], "random": [0.91, 0.89, 0.9, 0.9, 0.9], "grasp": [0.85] * 5}
    )
    (line,) = findings.sentences(comparison, pairs.pairs(comparison))
    assert line.startswith("At sparsity 0.9, snip and random have the same, highest mean accuracy, 90.00 %. ")
    assert "snip: it is not distinguishable from grasp (5.00, -4.82 to 14.82); 5 seeds. " in line
    assert line.endswith(" random: it beats grasp by 5.00 points (4.12 to 5.88); 5 seeds.")
    (line,) = findings.sentences(one := compared({"snip": [0.1], "random": [0.1]}), pairs.pairs(one))
    assert line == "At sparsity 0.9, snip and random have the same, highest mean accuracy, 10.00 %."


def test_names_with_commas_stand_in_quotes() -> None:
    assert findings.named("snip, balanced") == "“snip, balanced”"
    assert findings.named("snip + shuffle") == "snip + shuffle"


def test_what_is_not_distinguishable_is_said_so() -> None:
    comparison = compared({"snip": [0.97, 0.96, 0.98], "random": [0.95, 0.98, 0.97], "grasp": [0.5, 0.52, 0.51]})
    found = pairs.pairs(comparison)
    (line,) = findings.sentences(comparison, found)
    assert "it beats grasp by 46.00" in line
    assert "it is not distinguishable from random (0.33, -" in line
    assert "3 seeds" in line
    assert "With the 3 seeds of all it cannot give less than 0.25" in str(pairs.power(found))
    more = compared(
        {"snip": list(np.linspace(0.9, 0.91, 9)), "grasp": list(np.linspace(0.5, 0.53, 9)), "erk": [0.7] * 3}
    )
    assert "With the 3 seeds of 2 pairs it cannot give less than 0.25" in str(pairs.power(pairs.pairs(more)))


def test_the_best_is_the_best_of_what_is_compared() -> None:
    snip, random = [0.8, 0.802, 0.801, 0.799, 0.8, 0.99, 0.991, 0.992, 0.99, 0.99], [0.85, 0.851, 0.852, 0.85, 0.849]
    comparison = compared({"snip": snip, "random": random})
    (line,) = findings.sentences(comparison, pairs.pairs(comparison))
    best = "At sparsity 0.9, random has the highest mean accuracy, 85.04 % over the 5 seeds that all have"
    assert line.startswith(f"{best}: it beats snip by 5.00 points (")


@pytest.mark.parametrize("images", [1, 2, 20])
@pytest.mark.parametrize("seeds", [3, 5, 10, 20])
def test_pairs_without_spread_are_said_to_be_untested(seeds: int, images: int) -> None:
    """One image more in every seed is no sign of a better criterion, however many seeds there are."""
    right = [400 + 7 * seed % 13 for seed in range(seeds)]
    accuracies = {"snip": [(n + images) / 450 for n in right], "random": [n / 450 for n in right]}
    found = pairs.pairs(comparison := compared(accuracies | {"grasp": [n**2 / 450**2 for n in right]}))
    (line,) = findings.sentences(comparison, found)
    told = f"it could not be tested against random ({images / 4.5:.2f}, the same difference for all seeds)"
    assert told in line
    assert "it beats grasp by" in line
    assert "1 pair could not be tested: the same difference for all seeds (1)." in str(pairs.power(found))
    assert pairs.table(found)[1][-1] == "the same difference for all seeds"


def fallen(seeds: int, pairs_of: tuple[str, ...] = ("snip", "grasp", "random")) -> Comparison:
    """Criteria at two sparsities, of one of which one seed is at chance."""
    quality = {"snip": 0.9, "grasp": 0.88, "random": 0.6}
    records = [
        record(name, s, seed, 0.1 if name == "random" and not seed else quality[name] + 0.001 * (seed**2 % (7 + i)))
        for i, name in enumerate(pairs_of)
        for s in (0.9, 0.95)
        for seed in range(seeds)
    ]
    (found,) = comparisons(as_frame(records))
    return found


def test_a_family_of_signed_ranks_says_how_many_seeds_it_needs() -> None:
    """Six pairs: 6 / 2^(n - 1) is at most 0.05 from eight seeds on."""
    found = pairs.pairs(few := fallen(6))
    assert {pair.needed for pair in found} == {8}
    line = findings.sentences(few, found)[0]
    assert "too few seeds for a verdict on random (38.23; 1 of 6 seeds of random at chance or disc" in line
    assert "ed: a verdict takes 8)" in line
    assert "before correction" not in line
    assert "To reject after the correction it takes 8 seeds, which 4 pairs of these lack." in str(pairs.power(found))
    assert [row[-1] for row in pairs.table(found)[1:]].count("too few seeds") == 4
    assert "There, 8 seeds or more can tell a difference among 6 pairs." in " ".join(provenance.limits(few, found))
    found = pairs.pairs(enough := fallen(8))
    assert all(pair.significant for pair in found if "random" in (pair.better, pair.worse))
    assert "and random by 36.14 points (1 of 8 seeds of random at" in findings.sentences(enough, found)[0]
    assert "To reject after the correction it takes" not in str(pairs.power(found))
    (one,) = {pair.needed for pair in pairs.pairs(compared({"snip": [0.9] * 3, "random": [0.1] * 3}))}
    assert one == 6


def test_limits_by_the_t_test_are_told_of_the_t_test_alone() -> None:
    mixed, alone = fallen(6), fallen(6, ("snip", "random"))
    assert "by the t test, the largest difference" in " ".join(provenance.limits(mixed, pairs.pairs(mixed)))
    assert "standard deviation" not in " ".join(provenance.limits(alone, pairs.pairs(alone)))


@pytest.mark.parametrize(("seeds", "points", "p"), [(3, 0, 1.0), (8, 0, 1.0), (3, 40, None), (8, 40, None)])
def test_equal_differences_at_chance_are_judged_as_elsewhere(seeds: int, points: int, p: float | None) -> None:
    right = [0.1 + 0.001 * seed for seed in range(seeds)]
    found = pairs.pairs(compared({"snip": [a + points / 100 for a in right], "random": right}))
    (pair,) = found
    assert pair.collapsed
    assert not pair.significant
    if p is None:
        assert pair.untested == pairs.NO_SPREAD
    else:
        assert pair.p == p


@pytest.mark.parametrize("seeds", [1, 2])
def test_two_seeds_say_nothing(seeds: int) -> None:
    comparison = compared({"snip": [0.97, 0.98][:seeds], "random": [0.5, 0.52][:seeds]})
    found = pairs.pairs(comparison)
    assert math.isnan(found[0].corrected)
    assert not found[0].significant
    (line,) = findings.sentences(comparison, found)
    told = plural(seeds, "seed")
    assert line.endswith(f"too few seeds for a verdict on random ({47 - (seeds - 1) / 2:.2f}); {told}.")
    assert pairs.power(found) == "No pair could be tested: fewer than 3 seeds (1)."


def test_seeds_that_agree_to_less_than_an_image_do_not_show_how_much_they_vary() -> None:
    images = np.array([31, 30, 31, 31])  # of 450: s = 0.5 images
    (pair,) = pairs.pairs(compared({"snip": list((400 + images) / 450), "random": [400 / 450] * 4}))
    t = images.mean() * math.sqrt(4) / 1
    assert pair.p == pytest.approx(2 * stats.t.sf(t, 3))
    spread = np.array([31, 28, 33, 31])  # s = 2.06 images: as it is
    (pair,) = pairs.pairs(compared({"snip": list((400 + spread) / 450), "random": [400 / 450] * 4}))
    assert pair.p == pytest.approx(stats.ttest_1samp(spread, 0).pvalue)


def test_pairs_are_over_the_seeds_of_both() -> None:
    records = [record("snip", 0.9, s, 0.9 + 0.01 * s) for s in range(4)]
    records += [record("random", 0.9, s, 0.8 + 0.01 * s + 0.001 * (s == 2)) for s in (1, 2, 5)]
    records += [record("random", 0.9, 3, None)]
    (comparison,) = comparisons(as_frame(records))
    (pair,) = pairs.pairs(comparison)
    assert pair.difference.seeds == 2
    assert pair.difference.estimate.mean == pytest.approx(9.95)


def test_a_ranking_counts_networks_and_not_sparsities() -> None:
    records = []
    for model in "xyz":
        for sparsity in (0.9, 0.95):
            for name, accuracy in (("snip", 0.9), ("random", 0.5), ("grasp", 0.7)):
                records.append(record(name, sparsity, 0, accuracy - sparsity / 10, trial={"model": model}))
    ranks = rankings.ranking(list(comparisons(as_frame(records))))
    assert ranks is not None
    assert ranks.blocks == 3
    assert dict(zip(ranks.methods, ranks.mean, strict=True)) == {"snip": 1, "grasp": 2, "random": 3}
    assert "p = 0.05" in rankings.friedman(ranks)  # 12 / (3 * 3 * 4) * (3^2 + 6^2 + 9^2) - 36 = 6; exp(-3) = 0.0498


def null_study(draw: np.random.Generator, seeds: int = 5) -> Comparison:
    """Three criteria of one quality at two sparsities; what seeds share is shared."""
    shared = draw.normal(0.9, 0.02, size=seeds)
    records = []
    for sparsity in (0.9, 0.95):
        for name in ("snip", "random", "grasp"):
            accuracies = shared - sparsity / 10 + draw.normal(0, 0.005, size=seeds)
            records += [record(name, sparsity, seed, float(a)) for seed, a in enumerate(accuracies)]
    (found,) = comparisons(as_frame(records))
    return found


@pytest.mark.slow
def test_reports_call_chance_a_difference_in_at_most_one_of_twenty() -> None:
    draw, studies = np.random.default_rng(0), 120
    wrong = sum(any(pair.significant for pair in pairs.pairs(null_study(draw))) for _ in range(studies))
    assert wrong <= stats.binom.ppf(0.999, studies, 0.05)


@pytest.mark.slow
def test_two_draws_of_random_masks_are_seldom_told_apart() -> None:
    """Real trainings: 30 studies of five seeds, two sparsities and two criteria that differ by chance alone."""
    keys: dict[str, Any] = {"criteria": ["random:seed=1", "random:seed=2"], "sparsities": [0.5, 0.8], "seeds": 150}
    rows = pb.run(sweep(**keys, epochs=1, workers=1, train_disconnected=True), out="r")
    studies = [rows[rows.seed // 5 == study] for study in range(30)]
    found = [pairs.pairs(next(iter(comparisons(study)))) for study in studies]
    assert all(len(study) == 2 for study in found)
    assert sum(any(pair.significant for pair in study) for study in found) <= stats.binom.ppf(0.999, 30, 0.05)


def full(models: tuple[str, ...] = ("net", "other"), seeds: int = 4) -> list[Record]:
    """Records that have everything that a report draws."""
    quality = {None: 0.95, "snip": 0.9, "random": 0.6, "grasp": 0.85}
    return [
        drawn(name, sparsity, seed, q - sparsity / 10 + 0.003 * seed * (1 + (name == "snip")), trial={"model": model})
        for model in models
        for name, q in quality.items()
        for sparsity in ((0.0,) if name is None else (0.5, 0.8))
        for seed in range(seeds)
    ]


def files(folder: Path) -> dict[Path, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_full_report_is_the_same_byte_for_byte(tmp_path: Path, suffix: str) -> None:
    models = ("net", "other", "third")  # with two, no ranks are far enough apart for a figure of them
    store = Store(tmp_path / "r", create=True)
    for one in full(models):
        store.write(one)
    pages = [write_report(store, tmp_path / name / "page.md", suffix=suffix) for name in "ab"]
    first, second = (files(page.parent) for page in pages)
    assert first == second
    names = {path.stem for path in first if path.suffix == f".{suffix}"}
    kinds = ("pareto", "scoring", "curves", "layers", "likeness", "pixels")
    assert names == {
        *(f"page-{kind}-{model}-on-digits" for kind in kinds for model in models),
        *(f"page-{model}-on-digits" for model in models),
        "page-ranks",
    }
    text = pages[0].read_text()
    assert all(f"figures/{name}.{suffix}" in text for name in names)
    for expected in ("## In short", "### Cost", "## Ranks", "Friedman's test", "## What limits these conclusions"):
        assert expected in text
    assert text.index("## In short") < text.index("## net on digits") < text.index("## How these numbers were made")


def test_an_interval_the_other_way_round() -> None:
    comparison = compared({"snip": [0.971, 0.972, 0.974, 0.973, 0.970], "random": [0.941, 0.940, 0.943, 0.944, 0.939]})
    (pair,) = pairs.pairs(comparison)
    assert (pair.interval(), pair.interval(-1)) == ("2.92 to 3.20", "-3.20 to -2.92")
    assert pair.points(-1) == "-3.06 points (-3.20 to -2.92)"
    assert pair.points(-1, inside=True) == "-3.06, -3.20 to -2.92"


def test_cells_with_different_numbers_of_seeds() -> None:
    """A comparison has as many seeds as its fullest cell, failed ones too; a pair those that both have."""
    rows: dict[str, list[float | None]] = {
        "snip": [0.95, 0.97, 0.96, 0.94],
        "random": [0.9, 0.93, 0.91],
        "grasp": [0.8, None, 0.83, 0.82, None],
    }
    records = [record(name, 0.9, seed, a) for name, row in rows.items() for seed, a in enumerate(row)]
    (comparison,) = comparisons(as_frame([record(None, 0.0, 0, 0.99), *records]))
    assert comparison.seeds == 5
    counted = {name: (len(c.accuracies), c.failed) for (name, _), c in comparison.cells.items()}
    assert counted == {"snip": (4, 0), "random": (3, 0), "grasp": (3, 2)}
    found = {(pair.better, pair.worse): pair.difference for pair in pairs.pairs(comparison)}
    assert {names: one.seeds for names, one in found.items()} == {
        ("snip", "random"): 3,
        ("snip", "grasp"): 3,
        ("random", "grasp"): 2,
    }
    # over seeds 0 to 2, and over seeds 0, 2 and 3
    assert found["snip", "random"].estimate.mean == pytest.approx((5 + 4 + 5) / 3)
    assert found["snip", "grasp"].estimate.mean == pytest.approx((15 + 13 + 12) / 3)
