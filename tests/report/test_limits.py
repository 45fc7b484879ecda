"""What limits the conclusions of a comparison, each in a line of its own."""

from typing import Any

from pai_bench.report import pairs, provenance
from pai_bench.report.summary import comparisons
from pai_bench.results import Record, as_frame
from tests.report.records import record


def limits(records: list[Record]) -> list[str]:
    (comparison,) = comparisons(as_frame(records))
    return provenance.limits(comparison, pairs.pairs(comparison))


def rows(name: str | None, count: int, accuracy: float = 0.9, **changes: Any) -> list[Record]:
    """Some seeds, whose accuracies differ by whole images, in each criterion by others."""
    spread = [(seed**2 + len(name or "") * seed) % 7 / 450 for seed in range(count)]
    return [record(name, 0.9 if name else 0.0, seed, accuracy + more, **changes) for seed, more in enumerate(spread)]


# t(0.975, 4) / sqrt(5) = 2.776 / 2.236
PAIR = (
    "5 seeds and 1 pair: to be distinguished from chance by the t test, the largest difference must be at least 1.24 "
    "times the standard deviation of the paired differences."
)


def test_of_a_whole_comparison_there_is_one() -> None:
    assert limits([*rows(None, 5, 0.95), *rows("snip", 5), *rows("random", 5, 0.5)]) == [PAIR]


def test_few_seeds() -> None:
    found = limits([*rows(None, 2, 0.95), *rows("snip", 2), *rows("random", 2, 0.5)])
    told = "2 seeds: no difference can be distinguished from chance."
    assert found == [told, "1 pair of criteria could not be tested."]
    assert limits([*rows(None, 3, 0.95), *rows("snip", 3), *rows("random", 3, 0.5)]) != found


def test_what_is_missing() -> None:
    found = limits([*rows("snip", 5), *rows("random", 4, 0.5)])
    assert found == [
        PAIR,
        "fewer than 5 seeds: random at 0.9 (4); pairs are over the seeds of both.",
        "no dense reference: nothing says what pruning costs in accuracy.",
    ]
    found = limits([*rows(None, 3, 0.95), *rows("snip", 5), *rows("random", 5, 0.5)])
    assert found == [PAIR, "the dense reference has 3 seeds."]
    failed = [record(None, 0.0, seed, None) for seed in range(5)]
    found = limits([*failed, *rows("snip", 5), *rows("random", 5, 0.5)])
    assert "the dense reference failed: nothing says what pruning costs in accuracy." in found
    other = [record("snip", 0.5, seed, 0.93 + (seed**2 % 7) / 450) for seed in range(5)]
    found = limits([*rows(None, 5, 0.95), *rows("snip", 5), *rows("random", 5, 0.5), *other])
    assert found == [PAIR, "not run: random at 0.5."]


def test_networks_without_a_path_or_with_a_dead_layer() -> None:
    cut = {"connected": False, "dead_layers": ("b.weight",)}
    whole = [*rows(None, 5, 0.95), *rows("snip", 5, connected=True)]
    found = limits([*whole, *rows("random", 4, 0.5, connected=True), record("random", 0.9, 4, 0.1, **cut)])
    assert "1 trial with no path from input to output; their accuracy is that of a constant." in found
    assert any(line.startswith("seeds at chance or disconnected: random at 0.9 (1 of 5). There, ") for line in found)
    assert not any("dead layer" in line for line in found)
    dead = rows("random", 5, 0.5, connected=True, dead_layers=("b.weight",))
    assert limits([*whole, *dead]) == [PAIR, "5 trials with a dead layer."]


def test_modes_of_batch_norm_that_differ() -> None:
    snip, grasp = rows("snip", 5, batch_norm="eval"), rows("grasp", 5, 0.5, batch_norm="train")
    assert limits([*rows(None, 5, 0.95), *snip, *grasp]) == [
        PAIR,
        "batch norm while scoring is not in one mode: snip eval, grasp train. `--bn train` or `--bn eval` sets one for "
        "all.",
    ]
    assert limits([*rows(None, 5, 0.95), *snip, *rows("random", 5, 0.5)]) == [PAIR]


def test_weights_that_were_not_scored() -> None:
    snip = rows("snip", 5, not_scored=("b.own", "a.own"))
    found = limits([*rows(None, 5, 0.95), *snip, *rows("random", 5, 0.5)])
    assert found == [PAIR, "not scored, though the network may compute weights from them: a.own, b.own."]
