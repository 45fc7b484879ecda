"""Networks that did not train are flagged in table, sentences, limits and on the terminal, and are not beaten."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pai_bench.cli.entry import main
from pai_bench.report import findings, outcomes, pairs, provenance, rankings
from pai_bench.report.page import write_report
from pai_bench.report.summary import comparisons
from pai_bench.results import EpochRecord, Layer, Record, as_frame
from tests.report.records import altered, record, stored

CHANCE = math.log(10)


def at(loss: float | None, name: str | None, seed: int, accuracy: float, **changes: Any) -> Record:
    """A record whose last training loss is `loss`."""
    curve = (EpochRecord(epoch=1, train_loss=loss, test_loss=1.0, test_accuracy=accuracy),)
    return record(name, 0.9 if name else 0.0, seed, accuracy, curve=curve, **changes)


def trials(losses: dict[str | None, float], seeds: int = 10, **changes: Any) -> list[Record]:
    """Records of criteria with the given training losses; accuracies are high unless the loss is that of chance."""
    return [
        at(
            loss + 0.001 * seed,
            name,
            seed,
            (0.1 + 0.003 * (seed % 2) if loss > 2.2 else 0.95 + 0.004 * (seed % 3)),
            **changes,
        )
        for name, loss in losses.items()
        for seed in range(seeds)
    ]


def test_what_did_not_train_is_flagged_everywhere_and_not_beaten() -> None:
    records = trials({None: 0.01, "snip": 0.02, "grasp": 0.9, "random": 2.3})
    text = write_report(stored("r", records), Path("r.md")).read_text()
    row = next(line for line in text.splitlines() if line.startswith("| random |"))
    assert "10.15 ± 0.16 § |" in row
    assert "loss at chance" in Path("figures/r-net-on-digits.svg").read_text()
    assert "* § net, random at 0.9: did not train (10 of 10 seeds); training loss 2.304, by chance 2.303" in text
    (sentence,) = (line for line in text.splitlines() if line.startswith("* At sparsity 0.9"))
    assert "it is not compared with random, which did not train (the training loss is still that of chance)" in sentence
    assert "beats random" not in text
    assert "net on digits: did not train: 10 trials (random at 0.9)." in text.partition("## What limits")[2]
    (comparison,) = comparisons(as_frame(records))
    assert {pair.untested for pair in pairs.pairs(comparison) if "random" in (pair.better, pair.worse)} == {
        pairs.UNTRAINED
    }


def test_the_terminal_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "--quick", "--models", "lenet", "--criteria", "random", "--sparsities", "0.99", "--device", "cpu"]
    assert main([*run, "--learning-rate", "1e-6"]) == 0
    out = capsys.readouterr().out
    assert "§ lenet-5-caffe, random at 0.99: did not train (1 of 1 seed); training loss 2.30" in out
    assert "§ lenet-5-caffe, dense: did not train (1 of 1 seed)" in out
    report = Path("results/report.md").read_text()
    assert "* The dense networks did not train: the training loss is still that of chance." in report
    assert "random has the highest mean accuracy" in report
    assert "%: it did not train (the training loss is still that of chance)." in report


@pytest.mark.parametrize(("loss", "flagged"), [(0.979 * CHANCE, False), (0.981 * CHANCE, True), (3.0, True)])
def test_two_per_cent_of_chance(loss: float, flagged: bool) -> None:
    (comparison,) = comparisons(as_frame([at(loss, "snip", seed, 0.5) for seed in range(3)]))
    assert comparison.cells["snip", 0.9].at_chance is flagged
    assert comparison.cells["snip", 0.9].untrained == 3 * flagged


def test_chance_is_that_of_the_labels_in_use() -> None:
    """Of uneven classes it is less than ln(classes), of which records without it know."""
    for own, flagged in ((0.5, True), (2.0, False), (None, False)):
        (comparison,) = comparisons(as_frame([at(0.495, "snip", 0, 0.9, chance_loss=own)]))
        assert comparison.cells["snip", 0.9].at_chance is flagged


def test_classes_of_records_that_do_not_say_them() -> None:
    named = pd.DataFrame({"data": ["cifar100", "cifar10-jpeg", "tiny-imagenet-200"], "classes": None})
    assert outcomes.classes(named).tolist() == [100, 10, 200]
    head = (Layer(name="fc.weight", size=12, kept=6, shape=(3, 4)),)
    known = at(1.09, "snip", 0, 0.3, trial={"data": "mine"}, layers=head)
    unknown = at(1.09, "snip", 0, 0.3, trial={"data": "other"})
    assert outcomes.untrained(as_frame([known, unknown])).tolist() == [True, False]  # ln 3 = 1.0986
    assert np.isnan(outcomes.chance_losses(as_frame([unknown]))).all()


def test_a_number_of_classes_is_two_at_least() -> None:
    """Old records may hold a wrong one."""
    rows = pd.DataFrame({"data": ["mine"] * 4, "classes": [0, 1, 2, 3]})
    np.testing.assert_array_equal(outcomes.classes(rows), [np.nan, np.nan, 2, 3])


@pytest.mark.parametrize(("loss", "chance", "flagged"), [(0.98, 1.0, True), (0.979, 1.0, False), (0.0, 0.0, False)])
def test_losses_at_the_limit_of_chance(loss: float, chance: float, flagged: bool) -> None:
    """Labels that are all the same have nothing to be learnt."""
    rows = as_frame([at(loss, "snip", 0, 0.9, chance_loss=chance)])
    assert outcomes.untrained(rows).tolist() == [flagged]


@pytest.mark.parametrize(("accuracy", "flagged"), [(0.51, True), (0.511, False)])
def test_accuracies_at_the_limit_of_chance(accuracy: float, flagged: bool) -> None:
    """Two per cent of the way from a half to one."""
    rows = as_frame([at(0.1, "snip", 0, accuracy, chance_accuracy=0.5)])
    assert outcomes.guessing(rows).tolist() == [flagged]


def test_one_seed_that_did_not_train_is_flagged() -> None:
    records = trials({"snip": 0.02, "random": 0.5}, seeds=3)
    records = [at(2.31, "random", 0, 0.1) if r.trial["seed"] == 0 and i > 2 else r for i, r in enumerate(records)]
    (comparison,) = comparisons(as_frame(records))
    assert str(comparison.cells["random", 0.9]).endswith(" §")
    assert not comparison.cells["random", 0.9].at_chance
    (line,) = findings.sentences(comparison, pairs.pairs(comparison))
    lines = provenance.limits(comparison, pairs.pairs(comparison))
    assert "did not train: 1 trial (random at 0.9). What longer" in " ".join(lines)
    assert "nothing is said to beat" not in " ".join(lines)
    assert "seeds at chance or disconnected: random at 0.9 (1 of 3). There, 6 seeds or more can tell" in " ".join(lines)
    told = "1 of 3 seeds of random at chance or disconnected: a verdict takes 6"
    assert f"too few seeds for a verdict on random (28.33; {told}); 3 seeds." in line


def some_at_chance(seeds: int, untrained: int, **changes: Any) -> list[Record]:
    """Records of snip, and of random, of which some did not train."""
    records = [at(0.02, "snip", seed, 0.95 + 0.001 * seed**2 / 7, **changes) for seed in range(seeds)]
    return records + [
        at(2.3, "random", seed, 0.1 + 0.002 * seed, **changes)
        if seed < untrained
        else at(0.01, "random", seed, 0.94 - 0.001 * seed, **changes)
        for seed in range(seeds)
    ]


def told(records: list[Record]) -> tuple[str, str, str]:
    """What sentences, limits and the table of pairs say."""
    (comparison,) = comparisons(as_frame(records))
    found = pairs.pairs(comparison)
    (line,) = findings.sentences(comparison, found)
    return line, " ".join(provenance.limits(comparison, found)), pairs.table(found)[1][-1]


@pytest.mark.parametrize(("seeds", "untrained"), [(6, 6), (6, 5), (6, 3), (10, 5), (3, 2)])
def test_half_of_the_networks_at_chance_are_not_compared(seeds: int, untrained: int) -> None:
    sentence, limits, verdict = told(some_at_chance(seeds, untrained))
    assert "it is not compared with random, which did not train" in sentence
    assert f"did not train: {untrained} trials (random at 0.9). What longer training would give is" in limits
    assert "nothing is said to beat random at 0.9." in limits
    assert "times the standard deviation" not in limits
    assert verdict == pairs.UNTRAINED


def test_less_than_half_are_compared_by_the_signed_ranks_and_without_an_interval() -> None:
    sentence, limits, verdict = told(some_at_chance(6, 2))
    assert sentence.endswith(
        ": it beats random by 29.33 points (2 of 6 seeds of random at chance or disconnected); 6 seeds."
    )
    assert "did not train: 2 trials (random at 0.9). What longer training would give is not known." in limits
    assert "nothing is said to beat" not in limits
    assert "times the standard deviation" not in limits  # of the t test, which is not made
    assert verdict == "differ"
    (comparison,) = comparisons(as_frame(some_at_chance(6, 2)))
    assert pairs.table(pairs.pairs(comparison))[1][3] == "–"


def test_half_of_the_seeds_of_both_are_too_many() -> None:
    """Though of all seeds of random few did not train."""
    records = [r for r in some_at_chance(20, 6) if r.trial["criterion"]["name"] == "random" or r.trial["seed"] < 6]
    sentence, _, verdict = told(records)
    assert "not compared with random" in sentence
    assert verdict == pairs.UNTRAINED
    few = [r for r in some_at_chance(20, 6) if r.trial["criterion"]["name"] == "random" or r.trial["seed"] > 12]
    sentence, _, verdict = told(few)
    assert "it beats random by" in sentence
    # here it is snip whose networks did not train, on the seeds that random has
    swap = {"snip": "random", "random": "snip"}
    records = [
        at(
            r.training.curve[-1].train_loss,
            swap[r.trial["criterion"]["name"]],
            r.trial["seed"],
            r.evaluation.test_accuracy or 0,
        )
        for r in records
    ]
    snip = [altered(r, test_accuracy=0.99) if r.trial["criterion"]["name"] == "snip" else r for r in records]
    sentence, _, _ = told(snip)
    assert "it is not compared with random: over the seeds of both, half of the networks or more did" in sentence


@pytest.mark.parametrize(("seeds", "loss"), [(10, 50.0), (3, 7.0)])
def test_one_seed_that_diverged_does_not_condemn_the_others(seeds: int, loss: float) -> None:
    records = [at(0.02, "snip", seed, 0.95 + 0.001 * seed**2) for seed in range(seeds)]
    records += [at(0.05 if seed else loss, "random", seed, 0.9 + 0.001 * seed) for seed in range(seeds)]
    sentence, limits, _ = told(records)
    assert "which did not train" not in sentence
    assert f"1 of {seeds} seeds of random at chance or disconnected" in sentence
    assert "nothing is said to beat" not in limits


def test_of_noisy_labels_few_seeds_at_chance_say_nothing() -> None:
    noisy: dict[str, Any] = {"trial": {"label_noise": 0.1}}
    sentence, _, verdict = told(some_at_chance(3, 3, **noisy))
    assert "too few seeds for a verdict on random (84.82; 3 of 3 seeds of random at chance" in sentence
    assert verdict == pairs.TOO_FEW_RANKED
    sentence, limits, verdict = told(some_at_chance(6, 6, **noisy))
    assert "it beats random by 84.63 points (6 of 6 seeds of random at chance or disconnected)" in sentence
    assert "seeds at chance or disconnected: random at 0.9 (6 of 6). There, 6 seeds or more" in limits
    assert verdict == "differ"


def test_a_mean_that_one_seed_makes_declares_nothing_against_all_others() -> None:
    """Signed ranks say that random is better, the mean that snip is: neither is said."""
    records = [at(0.02, "snip", seed, 0.9 + 0.0001 * seed) for seed in range(14)]
    records += [at(0.02, "random", seed, 0.93 + 0.0003 * seed**2) for seed in range(1, 14)]
    (pair,) = pairs.pairs(next(iter(comparisons(as_frame([*records, at(2.3, "random", 0, 0.1)])))))
    assert pair.better == "snip"
    assert pair.difference.wilcoxon < 0.02
    assert (pair.p, pair.significant) == (1, False)


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_random_labels_that_were_not_memorised_are_a_finding(noise: float) -> None:
    records = trials({None: 0.01, "snip": 0.02, "random": 2.3}, trial={"label_noise": noise})
    text = write_report(stored("r", records), Path("r.md")).read_text()
    assert "* Nothing of the random labels was memorised by random at 0.9: the training loss is still that" in text
    assert "* § net, random at 0.9: memorised nothing of the random labels (10 of 10 seeds); training loss 2.3" in text
    assert "memorised nothing of the random labels: 10 trials (random at 0.9)." in text.partition("## What limits")[2]
    assert "did not train" not in text
    assert ("it beats random by 85.21 points" in text) is (noise < 1)  # comparisons stay
    assert ("seeds at chance or disconnected: random at 0.9 (10 of 10)" in text) is (noise < 1)


def test_dense_networks_that_memorised_nothing_are_named() -> None:
    records = trials({None: 2.3, "random": 2.3}, seeds=3, trial={"label_noise": 1.0})
    (comparison,) = comparisons(as_frame(records))
    assert findings.untrained(comparison) == [
        "Nothing of the random labels was memorised by dense and random at 0.9: the training loss is still that of "
        "chance."
    ]


def test_ranks_leave_out_what_did_not_train() -> None:
    losses: dict[str | None, float] = {"snip": 0.02, "grasp": 0.03, "random": 2.3}
    records = [r for model in "abc" for r in trials(losses, trial={"model": model})]
    assert rankings.ranking(comparisons(as_frame(records))) is None
    more = trials(losses | {"random": 0.5}, trial={"model": "d"})
    ranks = rankings.ranking(comparisons(as_frame([*records, *more])))
    assert ranks is not None
    assert ranks.blocks == 1


def test_disconnected_networks_are_not_said_to_lack_training() -> None:
    cut: dict[str, Any] = {"connected": False, "status": "disconnected"}
    records = [at(2.3, "random", seed, 0.1, connected=False) for seed in range(3)]
    records += [altered(record("snip", 0.9, seed, 0.1), **cut, curve=()) for seed in range(3)]
    text = write_report(stored("r", records), Path("r.md")).read_text()
    assert "§" not in text
    assert "did not train" not in text
    assert "10.00 ± 0.00 ‡" in text
    assert "beats" not in text.partition("## In short")[2].partition("##")[0].partition("**")[2]


def test_disconnected_networks_that_were_trained_are_compared_as_such() -> None:
    for seeds, verdict in (
        (3, "too few seeds for a verdict on random (84.92; 3 of 3 seeds of"),
        (6, "beats random by"),
    ):
        records = [at(0.02, "snip", seed, 0.95 + 0.001 * seed**2 / 7) for seed in range(seeds)]
        records += [at(2.3, "random", seed, 0.1 + 0.001 * seed, connected=False) for seed in range(seeds)]
        sentence, limits, _ = told(records)
        assert verdict in sentence
        assert "did not train" not in sentence + limits


def test_what_is_disconnected_has_collapsed_whatever_is_known_of_chance() -> None:
    """Of unknown classes, neither the loss nor the accuracy says so."""
    cut = at(None, "snip", 0, 0.4, trial={"data": "mine"}, connected=False)
    whole = at(None, "snip", 0, 0.4, trial={"data": "mine"}, connected=True)
    assert outcomes.collapsed(as_frame([cut, whole])).tolist() == [True, False]
    assert not outcomes.guessing(as_frame([cut])).any()
