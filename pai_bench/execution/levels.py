"""Levels of iterative pruning in a sweep: each waits for the network that the level before has trained."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from pai_bench.experiment.trial import Trial
from pai_bench.results import Record
from pai_bench.results.networks import NetworkFolder

logger = logging.getLogger(__name__)

MOST_TRIES = 3
"""Times that a stored trial is trained again for its network, which other sweeps with the same folder may remove."""


class Levels:
    """Which trials of a sweep wait for networks of others, and which run again because their network is missing.

    `trials` are all of the sweep, by identity.
    """

    def __init__(self, trials: Mapping[str, Trial], networks: NetworkFolder) -> None:
        self.networks, self._trials = networks, trials
        self.waiting: dict[str, Trial] = {}
        """Trials that cannot begin yet, by identity."""
        self.again: dict[str, Trial] = {}
        """Stored trials whose network others need, and which are trained again for it."""
        self._owners = {name: trial for trial in trials.values() for name in trial.keeps}
        self._readers = {name: [trial for trial in trials.values() if name in trial.needs] for name in self._owners}
        self._tries = Counter[str]()
        """How many times trials were trained again; `MOST_TRIES` if their networks were missing after one."""
        self._removable = set(self._owners)
        """Names of the networks that were not removed here. Other sweeps may keep them again, for their own trials."""

    def ready(
        self, missing: Sequence[Trial], wanted: Collection[str], records: Mapping[str, Record | None]
    ) -> tuple[list[Trial], list[tuple[Trial, str]]]:
        """The trials that can begin, of those `missing` and those that waited; and those that never can, with why.

        `wanted` are the identities of all trials that are not stored, `records` those of the others.
        """
        self.waiting |= {trial.identity: trial for trial in missing}
        ready, failed, looked_at = list[Trial](), list[tuple[Trial, str]](), list(self.waiting.values())
        for trial in looked_at:  # which grows
            lacking = [name for name in trial.needs if not self.networks.holds(name)]
            if trial.identity in self.again and all(map(self.networks.holds, trial.keeps)):
                self._forget(trial)
            elif not lacking:
                ready.append(self.waiting.pop(trial.identity))
            elif why := self._hopeless(lacking, wanted, records):
                self._forget(trial)
                failed.append((trial, why))
            else:
                looked_at += self._missing_owners(lacking, wanted)
        return ready, failed

    def _hopeless(
        self, lacking: Sequence[str], wanted: Collection[str], records: Mapping[str, Record | None]
    ) -> str | None:
        """Why one of some networks will never be there; None if it may."""
        for name in lacking:
            if (owner := self._owners.get(name)) is None:
                return f"the level before it, {name}, is not part of this sweep"
            record = records.get(owner.identity)
            if owner.identity in wanted or owner.identity in self.again:
                continue
            if record is None or record.status == "failed":
                return f"the level before it, {owner.identity}, has failed"
            if self._tries[owner.identity] >= MOST_TRIES:
                return f"the network of the level before it, {owner.identity}, cannot be kept"
        return None

    def _missing_owners(self, lacking: Sequence[str], wanted: Collection[str]) -> list[Trial]:
        """The stored trials that are to be trained again for some networks."""
        owners = {owner.identity: owner for owner in (self._owners[name] for name in lacking)}
        new = {name: owner for name, owner in owners.items() if name not in wanted and name not in self.again}
        for name in new:
            logger.info("%s is trained again: its network is needed, and was not kept", name)
        self.again |= new
        self.waiting |= new
        return list(new.values())

    def _forget(self, trial: Trial) -> None:
        self.waiting.pop(trial.identity, None)
        self.again.pop(trial.identity, None)

    def train_again(self, names: Collection[str]) -> None:
        """Let these stored trials run again, whose networks are needed and not there; not those of another sweep."""
        found = {name: self._trials[name] for name in names if name in self._trials and not self.networks.holds(name)}
        self.again |= found
        self.waiting |= found

    def on_network(self, trial: Trial) -> None:
        """A stored trial was trained again."""
        self._forget(trial)
        self._removable.update(trial.keeps)
        self._tries[trial.identity] += 1 if all(map(self.networks.holds, trial.keeps)) else MOST_TRIES

    def remove_networks(self, is_done: Callable[[str], bool], but: Collection[str] = ()) -> None:
        """Remove the networks that no trial of the sweep needs any more, `but` for some."""
        for name in self._removable.difference(but):
            if all(is_done(trial.identity) and trial.identity not in self.again for trial in self._readers[name]):
                self.networks.remove(name)
                self._removable.remove(name)
