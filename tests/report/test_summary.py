"""Cells, names of methods and settings, marks, and two folders side by side: by hand."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pai_bench.experiment.settings import TrainingSettings, unusual
from pai_bench.report import folder_diff, plugin_facts, tables
from pai_bench.report.figures import style
from pai_bench.report.similarity import similarity
from pai_bench.report.summary import Cell, comparisons, method_labels, mostly, plural, resolution
from pai_bench.results import Layer, Record, as_frame
from pai_bench.results.bits import pack
from tests.report.records import record
from tests.report.test_figures import compared, curve


def test_half_of_the_networks_are_most() -> None:
    assert [mostly(*one) for one in ((0, 0), (0, 1), (1, 2), (1, 3), (2, 3), (3, 3))] == [
        False, False, True, False, True, True
    ]  # fmt: skip
    assert [plural(count, "seed") for count in (0, 1, 2, 1234)] == ["0 seeds", "1 seed", "2 seeds", "1,234 seeds"]


def test_a_cell_with_all_marks() -> None:
    cell = Cell((0.9, 0.8), failed=1, with_dead_layers=1, disconnected=1, untrained=1, effective_sparsity=0.95)
    assert str(cell) == "85.00 ± 7.07 [0.9500] ‡ § (1 failed)"
    assert str(dataclasses.replace(cell, disconnected=0, failed=0)) == "85.00 ± 7.07 [0.9500] † §"


def test_cells_of_trials_by_seed() -> None:
    cut: dict[str, Any] = {"connected": False, "dead_layers": ("b.weight",), "effective_sparsity": 1.0}
    records = [
        record("snip", 0.9, 3, 0.1, **cut),
        record("snip", 0.9, 2, None, effective_sparsity=0.1),
        record("snip", 0.9, 0, 0.118, connected=True, effective_sparsity=0.9),  # 2 % of the way from 10 to 100 %
        record("snip", 0.9, 1, 0.5, curve=curve(2.26), effective_sparsity=0.95),  # 98 % of ln 10 are 2.2565
        record("snip", 0.9, 4, 0.12),
    ]
    (cell,) = compared(records).cells.values()
    assert cell.effective_sparsity == pytest.approx(0.95)
    assert dataclasses.replace(cell, effective_sparsity=0.95) == Cell(
        accuracies=(0.118, 0.5, 0.1, 0.12), failed=1, with_dead_layers=1, disconnected=1, untrained=1, collapsed=3,
        effective_sparsity=0.95, identities=tuple(records[i].identity for i in (2, 3, 1, 0, 4)),
    )  # fmt: skip


def test_names_of_all_uses_of_a_criterion() -> None:
    """What differs is named, in a fixed order, and only within a criterion and variant."""
    base: dict[str, Any] = {
        "criterion": "snip", "variant": "none", "schedule": "one-shot", "scope": "global", "score_batch": 100.0,
        "score_sampling": "balanced", "score_batches": 1.0, "target": "direct", "min_per_layer": 0.0, "repair": "none",
        "prunable": "usual", "sparsity_of": "weights", "prune_at": "0", "prune_when": "given",
        "score_labels": "true", "revision": 1.0,
    }  # fmt: skip
    other: dict[str, Any] = {
        "schedule": "linear:steps=2", "scope": "layerwise", "score_batch": 10.0, "score_sampling": "random",
        "score_batches": 5.0, "target": "effective", "min_per_layer": 1.0, "repair": "shortcuts", "prunable": "only fc",
        "sparsity_of": "nodes", "prune_at": "2%", "prune_when": "stable",
        "score_labels": "noisy", "revision": 2.0,
    }  # fmt: skip
    rows = pd.DataFrame([base, base | other, base | {"variant": "shuffle"}, base | {"criterion": "er"}])
    assert method_labels(rows).tolist() == [
        "snip, one-shot, global, 100 examples, balanced, 1 score batches, sparsity of weights, direct sparsity, "
        "at least 0 per layer, repair none, usual, pruned before training, "
        "pruned at a given time, scored on true labels, revision 1",
        "snip, linear:steps=2, layerwise, 10 examples, random, 5 score batches, sparsity of nodes, effective sparsity, "
        "at least 1 per layer, repair shortcuts, only fc, pruned after 2 % of the steps, "
        "pruned when the weights settle, scored on noisy labels, revision 2",
        "snip + shuffle",
        "er",
    ]


def test_sparsities_of_weights_and_of_nodes_are_not_compared() -> None:
    rows = as_frame(
        [
            record("dense", 0.0, 0, 0.9),
            record("snip", 0.9, 0, 0.5),
            record("snap", 0.9, 0, 0.6, trial={"sparsity_of": "nodes"}),
            record("snap", 0.9, 0, 0.7),
        ]
    )
    weights, nodes = comparisons(rows)
    assert (weights.methods, nodes.methods) == (("snip", "snap"), ("snap",))
    assert (weights.cell("snap", 0.9).accuracies, nodes.cell("snap", 0.9).accuracies) == ((0.7,), (0.6,))
    assert weights.dense.accuracies == nodes.dense.accuracies == (0.9,)
    assert nodes.title == f"{weights.title}, sparsity of nodes"


def test_settings_that_are_not_as_usual() -> None:
    trial = {"train_fraction": 0.9, "init": "tn", "label_noise": 0.25, "validation": 0.1}
    (found,) = comparisons(as_frame([record("snip", 0.9, 0, 0.5, trial=trial)]))
    assert unusual(found, TrainingSettings) == [
        "90 % of the training set", "weights from tn", "training labels random with probability 0.25",
        "tested on 10 % of the training set",
    ]  # fmt: skip
    assert unusual(compared([record("snip", 0.9, 0, 0.5)]), TrainingSettings) == []


@pytest.mark.parametrize(("right", "step"), [(225.0, 100 / 450), (225.009, 100 / 450), (225.011, 0.0), (225.5, 0.0)])
def test_what_one_example_counts(right: float, step: float) -> None:
    assert resolution(as_frame([record("snip", 0.9, 0, right / 450), record("er", 0.9, 0, None)])) == step


def test_remarks_below_the_table() -> None:
    cut: dict[str, Any] = {"connected": False, "first_cut": "b.weight"}
    records = [
        record("snip", 0.9, 0, 0.5, **cut),
        dataclasses.replace(record("snip", 0.9, 1, 0.1, **cut), status="disconnected"),
        record("snip", 0.9, 2, 0.5, connected=True, dead_layers=("c", "a")),
        dataclasses.replace(record("er", 0.9, 0, 0.1, **(cut | {"first_cut": "a"})), status="disconnected"),
        record("random", 0.9, 0, 0.5, connected=True, curve=curve(2.3)),
        record("random", 0.9, 1, 0.5, connected=True, curve=curve(3.3), chance_loss=2.0),
        record("random", 0.9, 2, 0.5, connected=True),
        record(None, 0.0, 0, 0.1, curve=curve(2.5)),
    ]
    (found,) = comparisons(as_frame(records))
    assert tables.remarks(found) == [
        "‡ net, er at 0.9: no path from input to output (1 of 1 seed), first cut a",
        "‡ net, snip at 0.9: no path from input to output (2 of 3 seeds), first cut b.weight; trained all the same",
        "† net, snip at 0.9: dead a, c (1 of 3 seeds)",
        "§ net, dense: did not train (1 of 1 seed); training loss 2.500, by chance 2.303",
        # (2.3 + 3.3) / 2 and (ln 10 + 2) / 2
        "§ net, random at 0.9: did not train (2 of 3 seeds); training loss 2.800, by chance 2.151",
    ]


def test_the_table_of_costs_leaves_out_what_failed() -> None:
    keys: dict[str, Any] = {"score_peak_bytes": 2**20, "device": "cuda"}
    records = [record("snip", 0.9, seed, 0.5, score_seconds=s, **keys) for seed, s in enumerate((1.0, 2.0, 5.0))]
    records += [record("snip", 0.9, 3, None, score_seconds=9.0, train_seconds=900.0, score_peak_bytes=2**30)]
    records += [record("er", 0.9, 0, 0.5, images_per_second=None)]
    assert tables.cost(compared(records))[1:] == [
        ["snip", "one-shot", "2 s", "1 MiB", "2 s", "1,000", "cuda"],
        ["er", "one-shot", "250 ms", "not measured", "2 s", "", "cpu"],
    ]


def test_masks_are_compared_over_three_seeds_that_all_have() -> None:
    """Of 8 connections. Both keep 4: by chance (8 / 4) / (8 - 8 / 4) = 1/3; seed 4 is not looked at, and 0 has one."""
    layers = (Layer(name="a", size=8, kept=4),)
    shared = {1: 4, 2: 2, 3: 0, 4: 0}  # Jaccard indices 1, 1/3, 0
    records = []
    for seed in range(5):
        one, other = np.arange(8) < 4, (np.arange(8) - 4 + shared.get(seed, 0)) % 8 < 4
        records.append(record("snip", 0.9, seed, 0.5, layers=layers, mask=pack({"a": one})))
        if seed:
            other = np.roll(np.arange(8) < 4, 4 - shared[seed])
            records.append(record("er", 0.9, seed, 0.5, layers=layers, mask=pack({"a": other})))
    known = {one.identity: one for one in records}
    found = similarity(compared(records), 0.9, known)
    assert found is not None
    assert (found.methods, found.seeds) == (("snip", "er"), 3)
    assert found.jaccard == pytest.approx(np.array([(1, 4 / 9), (4 / 9, 1)]))
    assert found.chance == pytest.approx(np.full((2, 2), 1 / 3))
    assert similarity(compared(records), 0.5, known) is None
    assert similarity(compared(records[:1] + records[2:3]), 0.9, known) is None  # a seed of each, and no shared one


def both() -> tuple[list[Record], list[Record]]:
    """A dense network, snip that has become worse, slower to score and faster to train, and er as it was."""
    before = [record("snip", 0.9, seed, 0.9 + 0.01 * seed) for seed in range(3)]
    after = [record("snip", 0.9, seed, 0.8 + 0.01 * seed, score_seconds=0.5, train_seconds=1.0) for seed in range(3)]
    same = [record(None, 0.0, 0, 0.97), *(record("er", 0.9, seed, 0.5 + 0.01 * seed) for seed in range(3))]
    lost = [record("snip", 0.5, seed, None if seed else 0.5, score_seconds=0.0) for seed in range(2)]
    return [*before, *same, *lost], [
        *after,
        *same,
        record("snip", 0.5, 0, 0.5),
        record("snip", 0.5, 1, 0.6),
        record("erk", 0.9, 0, 0.6),
    ]


def test_a_whole_comparison_of_two_folders() -> None:
    text = folder_diff.page(folder_diff.changes(*both()), *both(), left_out=["trials/x.json could not be read"])
    title, said, caption, table, where, lines = text.split("\n\n")
    assert title == "# Two results folders side by side"
    assert said == (
        "9 trials in both, 0 only in A, 1 only in B. Of 4 cells, 2 identical in every accuracy, 1 changed beyond the "
        "spread of their seeds (Welch's t test, 5%, Holm's correction). In 1 cell at least one trial changed its "
        "status. 2 cells could not be tested: fewer than 3 seeds, no spread, or fewer than 6 seeds and some of them at "
        "chance or disconnected."
    )
    assert caption.startswith("Test accuracy of the last epoch in per cent, mean ± standard deviation over the seeds")
    head, _, first, second, *others = table.splitlines()
    assert head == (
        "| data | model | criterion | sparsity | seeds | A | B | B - A | p, Holm | score, B / A | training, B / A |  |"
    )
    # t = 10 / sqrt(1 / 3 + 1 / 3) = 12.25 with 4 degrees of freedom, p = 0.000255; of two tests, twice that
    assert (
        first
        == "| digits | net | snip | 0.9 | 3 | 91.00 ± 1.00 | 81.00 ± 1.00 | -10.00 | 0.00051 | 2.00 | 0.50 | changed |"
    )
    assert second == "| digits | net | snip | 0.5 | 1 | 50.00 | 50.00 | +0.00 | – | – | 1.00 | 1 failed to done |"
    assert sorted(others) == [
        "| digits | net | dense | 0 | 1 | 97.00 | 97.00 | +0.00 | – | – | 1.00 | identical |",
        "| digits | net | er | 0.9 | 3 | 51.00 ± 1.00 | 51.00 ± 1.00 | +0.00 | 1 | 1.00 | 1.00 | identical |",
    ]
    data = "digits (scikit-learn, 28x28), 1,347 training and 450 test examples, checksum 00ff"
    made = "CPU; a cpu, 2 threads, Linux; torch 2; commit abc, with changes that were not committed"
    assert where == "## Where they come from"
    assert lines == f"* A: {made}\n* A: {data}\n* B: {made}\n* B: {data}\n* trials/x.json could not be read\n"


def test_cells_without_a_trial_that_did_not_fail() -> None:
    failed, done = record("snip", 0.9, 0, None), record("snip", 0.9, 0, 0.5)
    assert folder_diff.table(folder_diff.changes([failed], [done]))[1][4:9] == ["0", "–", "–", "–", "–"]
    assert folder_diff.changes([done], [record("er", 0.9, 0, 0.5)]) == []
    text = folder_diff.page([], [done], [record("er", 0.9, 0, 0.5, provenance={"commit": None})])
    assert "| data |" not in text
    assert "; commit unknown\n" in text


def test_looks_of_criteria_that_are_not_ours() -> None:
    """CRC-32 of mine is 1772671891, which is 4 modulo 7, and 253238841 sevens, which is 2 modulo 7."""
    assert style.looks(["mine"])["mine"] == (style.COLOURS[4], style.MARKERS[2], "-")
    # a use has the next marker of its colour, then the next line
    uses = style.looks(["snip", "snip, one-shot", "snip + shuffle", "snip:bn=train"])
    assert [uses[name] for name in ("snip", "snip:bn=train", "snip + shuffle", "snip, one-shot")] == [
        ("#0072B2", "o", "-"), ("#0072B2", "s", "-"), ("#0072B2", "D", "-"), ("#0072B2", "^", "-")
    ]  # fmt: skip
    assert list(uses) == ["snip", "snip, one-shot", "snip + shuffle", "snip:bn=train"]
    assert plugin_facts.criterion_of("./a:b.py:Mine:power=2") == "./a:b.py:Mine"
    assert style.shorten(["$a.weight", "b.bias"]) == [r"\$a", "b.bias"]


@pytest.mark.parametrize(("entries", "inside"), [(6, True), (7, False)])
def test_a_long_legend_stands_beside_its_axes(entries: int, inside: bool) -> None:
    figure = Figure()
    axes = figure.subplots()
    for i in range(entries):
        axes.plot([0], [0], label=str(i))
    style.legend(axes)
    assert (axes.get_legend() is not None) is inside
    assert len(figure.legends) == 1 - inside


def test_files_of_figures_hold_no_date_and_texts_as_they_are() -> None:
    for suffix in ("svg", "png"):
        with style.canvas(Path(f"x.{suffix}")) as figure:
            axes = figure.subplots()
            axes.set_title("a, b")
            assert not axes.spines["top"].get_visible()
            assert not axes.spines["right"].get_visible()
            assert not axes.yaxis.get_major_formatter().get_useOffset()  # type: ignore[attr-defined]  # as they are
    text = Path("x.svg").read_text()
    assert "<dc:date>" not in text
    assert ">a, b</text>" in text  # and not outlines of letters
    content = Path("x.png").read_bytes()
    assert b"Software" not in content
    assert int.from_bytes(content[16:20]) == 960  # 6.4 inches of 150 pixels


def test_a_title_of_more_than_five_lines_ends_early() -> None:
    with style.canvas(Path("x.svg")) as figure:
        axes = figure.subplots()
        axes.set_title("\n".join(["w" * 90, *"abcde"]))
    *lines, fourth, last = axes.title.get_text().split("\n")
    assert ("".join(lines), fourth, last) == ("w" * 90, "a", "…")  # in place of b
    assert len(lines) == 3


def test_levels_of_iterative_pruning_on_the_way_are_left_out() -> None:
    """At sparsities that no other method has, but for the last; by itself, a method is shown at all of its levels."""

    def level(sparsity: float, trainings: int) -> Record:
        return record("imp", sparsity, 0, 0.9, trainings=trainings)

    levels = [record("dense", 0.0, 0, 0.9), level(0.5, 2), level(0.75, 3), level(0.8, 4)]
    (alone,) = comparisons(as_frame(levels))
    assert alone.sparsities == (0.5, 0.75, 0.8)
    (beside,) = comparisons(as_frame([*levels, record("snip", 0.8, 0, 0.8), record("snip", 0.9, 0, 0.7)]))
    assert beside.sparsities == (0.8, 0.9)
    assert [place for place in beside.cells if place[0] == "imp"] == [("imp", 0.8)]
    (beyond,) = comparisons(as_frame([*levels, record("snip", 0.5, 0, 0.8)]))
    assert [place for place in beyond.cells if place[0] == "imp"] == [("imp", 0.5), ("imp", 0.8)]
