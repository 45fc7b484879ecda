"""Parts of a sweep, for jobs without a common disk."""

from typing import Any

import pytest

import pai_bench as pb
from pai_bench.execution.shards import keep_shard, parse_shard
from pai_bench.experiment.resolve import resolve
from pai_bench.results import Store, TrialMetrics
from tests.execution.interrupts import outcome
from tests.execution.sweeps import named
from tests.experiment.test_runner import sweep


@pytest.mark.parametrize("shards", [1, 2, 4, 6])
def test_shards_divide_all_trials_of_all_grids_and_none_twice(shards: int) -> None:
    def catalogs() -> Any:
        return [resolve(named(criteria=criteria)) for criteria in (["snip"], ["random", "er"])]

    whole = {trial.identity for catalog in catalogs() for trial in catalog.trials}
    parts = list[set[str]]()
    for index in range(1, shards + 1):
        keep_shard(mine := catalogs(), (index, shards))
        parts.append({trial.identity for catalog in mine for trial in catalog.trials})
        for catalog, all_of in zip(mine, catalogs(), strict=True):
            kept = set(map(id, catalog.trials))
            assert [t.identity for t in catalog.trials] == [
                t.identity for t in all_of.trials if t.identity in parts[-1]
            ]
            assert len(kept) == len(catalog.trials)
    assert set().union(*parts) == whole
    assert sum(map(len, parts)) == len(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shards_together_are_the_sweep() -> None:
    pb.run(sweep(), out="whole")
    for index in (1, 2, 3):
        pb.run(sweep(), out="r", shard=f"{index}/3")
    assert outcome("r") == outcome("whole")


def test_trials_are_with_the_dense_network_that_they_are_held_against() -> None:
    for index in (1, 2, 3):
        for catalog in (resolve(named(seeds=3, evaluate=metric)) for metric in ("verdict-linf:eps=0.1:n=5", None)):
            keep_shard([catalog], (index, 3))
            seeds = {trial.seed for trial in catalog.trials}
            assert len(catalog.trials) == 3
            assert (len(seeds) == 1) or catalog.sweep.evaluate is None
    for index in (1, 2):
        pb.run(named(epochs=0, evaluate="verdict-linf:eps=0.1:n=5"), out="r", shard=f"{index}/2")
    held = [one.metrics["verdict-linf:eps=0.1:n=5"].dense is None for one in Store("r").read_all(TrialMetrics)]
    assert sorted(held) == [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0/8", "shard 0/8 is out of range: the first of 8 is 1/8, the last 8/8"),
        ("9/8", "shard 9/8 is out of range"),
        ("0/0", "shard 0/0 is out of range"),
        ("2", "shard '2' is not I/N, such as 2/8: the second of eight"),
        ("-1/8", "is not I/N"),
        ("1/2/3", "is not I/N"),
        ("a/b", "is not I/N"),
        ("1/9999999", "is not I/N"),
    ],
)
def test_what_is_no_shard(text: str, said: str) -> None:
    with pytest.raises(pb.UserError) as error:
        parse_shard(text)
    assert said in str(error.value)
    assert parse_shard(" 2/8 ") == (2, 8)
