"""Shards: the trials of a sweep divided among jobs that share no folder."""

import re
from collections.abc import Callable, Mapping, Sequence

from pai_bench.evaluation import get_metric, needs_dense
from pai_bench.experiment.levels import dense_of
from pai_bench.experiment.resolve import Catalog
from pai_bench.support.errors import UserError
from pai_bench.support.identity import digest

Shard = tuple[int, int]
"""Which one, from 1, of how many."""


def parse_shard(text: str) -> Shard:
    """The shard that ``I/N`` says; UserError for anything else."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if match is None:
        raise UserError(f"shard {text!r} is not I/N, such as 2/8: the second of eight")
    index, count = map(int, match.groups())
    if not 1 <= index <= count:
        raise UserError(f"shard {text} is out of range: the first of {count} is 1/{count}, the last {count}/{count}")
    return index, count


def keep_shard(catalogs: Sequence[Catalog], shard: Shard) -> None:
    """Leave only the trials of a shard in the catalogs of a sweep.

    All jobs of a sweep divide it alike: trials are dealt out in the order of the hashes of their identities, so that
    shards differ by one trial at most, and none gets all trials of one criterion. A trial of several catalogs is in one
    shard, and the levels of iterative pruning are in that of the dense network that they begin with. So are all trials
    if there are metrics for which they are held against it.
    """
    index, count = shard
    metrics = {name: get_metric(name)[1] for catalog in catalogs for name in catalog.sweep.metrics}
    with_dense = any(map(needs_dense, metrics.values()))
    parents = {
        trial.identity: (dense_of(trial).identity,) if with_dense and trial.criterion else trial.needs[:1]
        for catalog in catalogs
        for trial in catalog.trials
    }
    kept = set(sorted(set(map(first_of(parents), parents)), key=lambda name: (digest(name), name))[index - 1 :: count])
    for catalog in catalogs:
        catalog.trials = [trial for trial in catalog.trials if first_of(parents)(trial.identity) in kept]


def first_of(parents: Mapping[str, Sequence[str]]) -> Callable[[str], str]:
    """What gives the trial that a trial begins with at last; most begin with none."""

    def first(identity: str) -> str:
        while parents.get(identity):
            (identity,) = parents[identity]
        return identity

    return first
