"""The parts of a report that are about all of it, and a whole section, word by word."""

from pathlib import Path
from typing import Any

import pytest

from pai_bench.report import metrics, page, rankings
from pai_bench.report.section import FIGURES, Section, section, shares
from pai_bench.report.smaller_networks import UNSTRUCTURED
from pai_bench.report.statistics import Ranks
from pai_bench.report.summary import comparisons
from pai_bench.results import Layer, Record, as_frame
from tests.report.records import cost, record
from tests.report.test_figures import compared
from tests.report.test_figures_of_masks import collapse


def test_figures_have_names_of_their_own() -> None:
    figures = page.Figures("My Report", "png")
    assert figures("A  title, of b_c!") == Path("figures/my-report-a-title-of-b-c.png")
    assert figures("a title of b c") == Path("figures/my-report-a-title-of-b-c-2.png")
    assert figures("a/title/of/b/c") == Path("figures/my-report-a-title-of-b-c-3.png")
    assert figures("w" * 200) == Path(f"figures/my-report-{'w' * 90}.png")


def test_what_a_report_without_trials_is_about() -> None:
    assert page.subject([], [cost()], [collapse("snip")]) == "what it costs"
    assert page.subject([], [], [collapse("snip")]) == "where networks fall apart"
    assert page.subject([], [], []) == "checks and measurements"


def blocks(name: str = "erk", init: str = "tn") -> list[Record]:
    """Three networks; of one another setting, and of another one more criterion."""
    found = [
        record(criterion, 0.9, 0, accuracy, trial={"model": model})
        for model in "xyz"
        for criterion, accuracy in (("snip", 0.9), ("random", 0.5), ("grasp", 0.7))
    ]
    return [
        *found,
        record("snip", 0.9, 0, 0.1, trial={"model": "x", "init": init}),
        record(name, 0.9, 0, 0.9, trial={"model": "y"}),
    ]


def test_ranks(drawings: list[Any]) -> None:
    found = comparisons(as_frame(blocks("e*k")))
    # 12 / (3 * 3 * 4) * (3^2 + 6^2 + 9^2) - 36 = 6, exp(-6 / 2) = 0.0498; 2.343 sqrt(3 * 4 / (6 * 3)) = 1.913
    assert page.ranking(found, Path(), page.Figures("r", "svg")) == [
        "## Ranks",
        "Mean rank over 3 blocks (network x data set; in each, the mean accuracy over the sparsities at which all have "
        "trained), 1 the best. Friedman's test: the criteria differ in rank (p = 0.05); with so few blocks it seldom "
        "rejects. Criteria nearer than the critical difference (1.91) are not distinguishable. Not in all blocks, and "
        r"left out: e\*k. Of several settings of one network, the plainest and then the one with most cells: x on "
        "digits; y on digits; z on digits.",
        "| criterion | mean rank |\n| --- | ---: |\n| snip | 1.00 |\n| grasp | 2.00 |\n| random | 3.00 |",
        "![Mean ranks and critical difference](figures/r-ranks.svg)",
    ]
    assert len(drawings) == 1
    alone = [one for one in found if one.model == "z"]
    assert page.ranking(alone, Path(), page.Figures("r", "svg")) == []
    two = page.ranking([one for one in found if one.model != "x"], Path(), page.Figures("r", "svg"))
    assert len(two) == 3  # 2.343 sqrt(3 * 4 / (6 * 2)) is above 2, and there is no figure
    assert "Of several settings" not in two[1]
    assert len(drawings) == 1


@pytest.mark.parametrize(
    ("methods", "count", "p", "critical", "said"),
    [
        (2, 3, float("nan"), 1.0, "With 2 criteria and 3 blocks there is no test."),
        (3, 1, float("nan"), float("nan"), "With 3 criteria and 1 block there is no test."),
        (4, 5, 0.2, 2.5, "Friedman's test: the criteria are not distinguishable in rank (p = 0.2). Criteria nearer "
         "than the critical difference (2.50) are not distinguishable."),
        (4, 4, 0.051, 3.0, "Friedman's test: the criteria are not distinguishable in rank (p = 0.051); with so few "
         "blocks it seldom rejects. No two of them can be distinguished: with so few blocks, no ranks are far enough "
         "apart."),
        (4, 9, 0.05, 1.0, "Friedman's test: the criteria differ in rank (p = 0.05). Criteria nearer than the critical "
         "difference (1.00) are not distinguishable."),
    ],
)  # fmt: skip
def test_what_friedmans_test_says(methods: int, count: int, p: float, critical: float, said: str) -> None:
    assert rankings.friedman(Ranks(tuple("abcd"[:methods]), (2.0,) * methods, count, p, critical)) == said


def test_blocks_are_means_over_the_sparsities_that_all_have() -> None:
    """At 0.95 grasp was not run, and at 0.98 it failed: there snip is the last."""
    values = {("snip", 0.5): 0.7, ("snip", 0.9): 0.8, ("grasp", 0.5): 0.9, ("grasp", 0.9): 0.5}
    low = {("snip", 0.95): 0.1, ("snip", 0.98): 0.1, ("grasp", 0.98): None}
    records = [record(*cell, 0, accuracy) for cell, accuracy in {**values, **low}.items()]
    ranks = rankings.ranking([compared(records)])
    assert ranks is not None
    assert dict(zip(ranks.methods, ranks.mean, strict=True)) == {"snip": 1, "grasp": 2}  # 75 and 70 %
    assert rankings.ranking([compared(records[:2])]) is None
    assert rankings.ranking([]) is None


def test_the_summary_says_of_what_sparsity_is_a_share() -> None:
    records = [record(None, 0.0, 0, 0.5), record("snip", 0.9, 0, 0.5)]
    assert "Sparsity is the share of prunable weights removed; effective" in page.summary(records)
    records.append(record("snap", 0.9, 0, 0.5, trial={"sparsity_of": "nodes"}))
    removed = "removed (of units or operations where a heading says so); effective"
    assert f"Sparsity is the share of prunable weights {removed}" in page.summary(records)


def test_the_summary_and_what_is_in_short() -> None:
    records = [record("snip", 0.9, 0, 0.5), record("snip", 0.9, 1, None), record(None, 0.0, 0, 0.5)]
    assert page.summary(records).startswith("3 trials (2 done, 1 failed). Accuracies are of the last epoch on ")
    found = [
        compared([record("snip", 0.9, 0, 0.5, trial={"model": "a*", **more})]) for more in ({}, {"label_noise": 1.0})
    ]
    made = [Section([], ["one *", "two"], []), Section([], ["three"], [])]
    assert page.in_short(found, made) == [
        "## In short", r"**a\* on digits**", "* one \\*\n* two",
        r"**a\* on digits, training labels random with probability 1**", page.RANDOM_LABELS, "* three",
    ]  # fmt: skip
    pair: Any = object()
    assert page.in_short(found[:1], [Section([pair], ["one"], [])])[1] == page.SHORT
    assert page.in_short(found[:1], [Section([pair], [], [])]) == []
    # six seeds for one test; nine for ten, since 10 / 2^8 = 0.039; twelve for sixty, since 60 / 2^11 = 0.029
    assert "with 95 % intervals" in page.SHORT
    assert (
        "takes 3 seeds, and more where some networks are at chance or disconnected: 6 for one pair, 9 for ten, 12 for"
        in page.SHORT
    )


def small() -> list[Record]:
    """One seed of the dense network and two of snip."""
    return [record(None, 0.0, 0, 0.97), record("snip", 0.9, 0, 0.9), record("snip", 0.9, 1, 0.92, score_seconds=0.35)]


# t(0.975, 1) sqrt(2) / sqrt(2) = 12.71
MEASURED = [
    ["criterion", "sparsity", "seeds", "test accuracy, last epoch, % ↑", "below dense, points ↓",
     "training loss, last epoch ↓", "dead layers ↓", "weights kept", "scoring ↓", "training ↓"],
    ["dense", "0", "1", "97.00", "0.00", "1.000", "0", "25", "", "2 s"],
    ["snip", "0.9", "2", "91.00 ± 1.41 (78.29 to 100.00)", "7.00 (1 of 2 seeds)", "1.000", "0", "25", "300 ms", "2 s"],
]  # fmt: skip


def test_a_whole_section(drawings: list[Any]) -> None:
    known, found = {one.identity: one for one in small()}, compared(small())
    made = section(found, known, Path(), {name: Path(f"{name}.svg") for name in FIGURES}, "direct")
    assert made.findings == [
        "At sparsity 0.9, snip has the highest mean accuracy, 91.00 %; no other criterion has results there."
    ]
    assert made.pairs == []
    assert made.parts == [
        "## net on digits",
        f"Protocol: {found.protocol}. 2 seeds. Score time: median after a warm-up.",
        "| criterion | dense | sparsity 0.9 | score |\n| --- | ---: | ---: | ---: |\n"
        "| snip | 97.00 | 91.00 ± 1.41 | 300 ms |",
        "![Test accuracy against sparsity, net on digits](accuracy.svg)",
        "### Cost",
        "| criterion | schedule | score | peak memory | training | images/s | device |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| dense |  |  |  | 2 s | 1,000 | cpu |\n"
        "| snip | one-shot | 300 ms | not measured | 2 s | 1,000 | cpu |",
        UNSTRUCTURED,
        "![Accuracy against cost at sparsity 0.9, net on digits](pareto.svg)",
        "![Cost of a mask in training steps, net on digits](scoring.svg)",
        "![Density of each layer at sparsity 0.9, net on digits](layers.svg)",
        "<details><summary>All measured numbers, means over seeds</summary>\n\n"
        + "\n".join("| " + " | ".join(row) + " |" for row in (MEASURED[0], ["---", *["---:"] * 9], *MEASURED[1:]))
        + "\n\n</details>",
        "<details><summary>Density of each layer in per cent, kept and effective</summary>\n\nSparsity 0.9:\n\n"
        "| layer | weights | snip |\n| --- | ---: | ---: |\n| a.weight | 30 | 50 |\n| b.weight | 20 | 50 |"
        "\n\n</details>",
    ]
    assert len(drawings) == 4


def test_the_table_of_metrics_in_latex_and_html() -> None:
    found = compared(small())
    assert metrics.table(found) == MEASURED
    head = r"test accuracy, last epoch, \% $\uparrow$ & below dense, points $\downarrow$ & "
    head += r"training loss, last epoch $\downarrow$ & dead layers $\downarrow$ & weights kept & "
    assert metrics.as_latex([found]) == "\n".join(
        [
            f"% net on digits; {found.protocol}",
            r"\begin{tabular}{lrrrrrrrrr}",
            r"\toprule",
            rf"criterion & sparsity & seeds & {head}scoring $\downarrow$ & training $\downarrow$ \\",
            r"\midrule",
            r"dense & 0 & 1 & 97.00 & 0.00 & 1.000 & 0 & 25 &  & 2 s \\",
            r"snip & 0.9 & 2 & 91.00 $\pm$ 1.41 (78.29 to 100.00) & 7.00 (1 of 2 seeds) & 1.000 & 0 & 25 & 300 ms & "
            r"2 s \\",
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )  # fmt: skip
    lines = metrics.as_html([found]).splitlines()
    assert lines[:6] == [
        "<!doctype html>", '<meta charset="utf-8">', "<title>pai-bench</title>", "", "<table>",
        f"<caption>net on digits. {found.protocol}</caption>",
    ]  # fmt: skip
    assert lines[6] == "<thead><tr>" + "".join(f"<th>{cell}</th>" for cell in MEASURED[0]) + "</tr></thead>"
    assert lines[7] == "<tbody>"
    assert lines[8:10] == ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in MEASURED[1:]]
    assert lines[10:] == ["</tbody>", "</table>"]


def test_failures_and_losses_at_chance_are_counted() -> None:
    """In a column each, where there are any."""
    records = [record("snip", 0.9, 0, None), record("snip", 0.9, 1, 0.5, curve=()), record("snip", 0.9, 2, 0.6)]
    records += [record("er", 0.9, 0, 0.1, chance_loss=1.0)]
    rows = metrics.table(compared(records))
    assert rows[0][:5] == ["criterion", "sparsity", "seeds", "failed", "loss at chance"]
    assert [row[:5] for row in rows[1:]] == [["snip", "0.9", "2", "1", ""], ["er", "0.9", "1", "", "1"]]
    assert [row[6] for row in rows] == ["training loss, last epoch ↓", "1.000 (1 of 2 seeds)", "1.000"]


def test_shares_of_layers_over_seeds() -> None:
    """30 of 40 kept, 24 of them effective; of what is not known to be ineffective, all is."""
    both = [Layer(name="a", size=20, kept=10, effective=4), Layer(name="a", size=20, kept=20)]
    assert shares(both) == "75 / 60"
    assert shares(both[1:]) == "100"
