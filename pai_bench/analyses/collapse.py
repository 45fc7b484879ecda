"""Layer collapse: up to which sparsity a criterion's masks leave a network connected. Nothing is trained.

The sparsities tried lie evenly on a scale of log compression, from half of the weights to a single one. Between the
last at which the network is connected and the first at which it is not, the limit is found by bisection: to the
connection for a one-shot criterion, which scores once; with some further prunings for an iterative one.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.graph.connectivity import Connections
from pai_bench.masks import Mask, OneShot, Schedule, select
from pai_bench.masks.allocation import Division
from pai_bench.pruning import prune
from pai_bench.pruning.pruner import by_scope
from pai_bench.results import Collapse, Environment, MaskEffect, SearchProvenance, Store
from pai_bench.scoring import Criterion, Scores
from pai_bench.support.environment import describe
from pai_bench.support.errors import UserError
from pai_bench.support.identity import stream


@dataclass(frozen=True)
class Settings:
    """How fine a search is."""

    points: int = 10
    """Sparsities tried at first; an iterative criterion has half as many again for the bisection."""
    rounds: int | None = None
    """Cuts of an iterative schedule, in place of its own number."""

    def __post_init__(self) -> None:
        if self.points < 2:
            raise UserError(f"points {self.points} must be at least 2")
        if self.rounds is not None and self.rounds < 1:
            raise UserError(f"rounds {self.rounds} must be at least 1")

    def schedule(self, trial: Trial) -> Schedule:
        """The schedule of a trial's criterion."""
        assert trial.schedule is not None
        if self.rounds is None or trial.schedule == OneShot():
            return trial.schedule
        return dataclasses.replace(trial.schedule, steps=self.rounds)

    def configuration(self, trial: Trial) -> dict[str, Any]:
        """What the result of a search depends on, apart from its `points`, which only make it finer."""
        configuration = trial.configuration()
        labels = () if trial.score_labels == "noisy" else ("label_noise", "label_law")  # scoring sees true labels
        for key in ("protocol", "sparsity", "length", *labels):
            configuration.pop(key, None)
        if trial.train_fraction == 1:  # else the score batch is of another part
            del configuration["train_fraction"]
        configuration["criterion"]["schedule"] = str(self.schedule(trial))
        return configuration


def stored(known: Sequence[Collapse], runner: Runner, trial: Trial, settings: Settings) -> Collapse | None:
    """The one of the `known` results that the same search, on the same data, has given."""
    wanted, checksum = settings.configuration(trial), runner.inputs.loaded(trial).checksum
    for result in known:
        finer = result.provenance.points is not None and result.provenance.points >= settings.points
        if result.trial == wanted and finer and result.provenance.checksum == checksum:
            return result
    return None


def adopt(store: Store, runner: Runner, settings: Settings) -> None:
    """Store results under the names that the criteria of classes in files have by now."""
    wanted = {
        identify_search(settings.configuration(was)): settings.configuration(trial)
        for trial in runner.catalog.trials
        if (was := trial.former) is not None
    }
    for former in store.read_all(Collapse) if wanted else ():
        if (configuration := wanted.get(identify_search(former.trial))) is not None:
            store.write(dataclasses.replace(former, trial=configuration), former=former)


def identify_search(configuration: Mapping[str, Any]) -> str:
    """A key for what a search depends on."""
    return json.dumps(configuration, sort_keys=True, default=list)


def check_counts(criterion: Criterion) -> None:
    """Refuse a criterion that does not keep exactly as many connections as it is asked for, before training."""
    if criterion.begins_dense:
        raise UserError(f"{criterion} prunes during training: a search is of networks that are not trained")
    if criterion.combined:
        raise UserError(f"{criterion} removes whole units, too: a search is of masks of single weights alone")
    if criterion.structured:
        raise UserError(f"{criterion} removes whole units, and never all of a layer: nothing is disconnected")
    if criterion.ties != "position":
        raise UserError(f"{criterion}: a search counts connections, which ties={criterion.ties} changes")


@dataclass
class Search:
    """The masks of one trial's criterion and network at any count of connections, and what they leave connected."""

    runner: Runner
    trial: Trial
    settings: Settings = Settings()
    _tried: dict[int, MaskEffect] = field(default_factory=dict)
    _scores: Scores | None = None
    _division: Division | None = None

    def __post_init__(self) -> None:
        assert self.trial.criterion is not None
        self.criterion = self.trial.criterion
        check_counts(self.criterion)
        self.schedule, self.points = self.settings.schedule(self.trial), self.settings.points
        self.model = self.runner.inputs.model(self.trial)
        self.batch, self.draw = self.runner.inputs.score_batch(self.trial), self.runner.inputs.draw(self.trial)
        self.names = self.runner.inputs.prunable(self.trial, self.model, biases=self.criterion.biases)
        self.links = Connections(self.model, self.runner.inputs.example(self.trial))
        with self.runner.inputs.scorer(self.trial, self.model) as scorer:
            self.sizes = {name: shape.numel() for name, shape in scorer.shapes.items()}
        self.size, self.exact = sum(self.sizes.values()), self.schedule == OneShot()

    def mask(self, count: int) -> Mask:
        """The criterion's mask of `count` connections."""
        seed = stream(self.trial.seed, "scores")
        if not self.exact:
            options: dict[str, Any] = {"schedule": self.schedule, "scope": self.trial.scope, "draw": self.draw}
            options |= {"seed": seed, "prunable": self.names}
            return prune(self.model, self.batch, self.criterion, 1 - count / self.size, **options)
        if self._scores is None:
            with self.runner.inputs.scorer(self.trial, self.model, seed) as scorer:
                self._scores = scorer.score(self.batch)
            self._division = by_scope(self.criterion, {n: s.shape for n, s in self._scores.items()}, self.trial.scope)
        parts = self.parts(count)
        return Mask(select(self._scores, count if parts is None else parts))

    def parts(self, count: int) -> dict[str, int] | None:
        """How many connections a scope gives each layer; None where the ranking decides."""
        if self._division is None:
            return None
        return dict(zip(self.sizes, self._division(count, list(self.sizes.values())), strict=True))

    def examine(self, count: int) -> MaskEffect:
        """What the mask of `count` connections leaves, in full."""
        paths = self.links.under(self.mask(count), paths=False)
        self._tried[count] = MaskEffect(
            sparsity=1 - count / self.size,
            connected=paths.connected,
            effective_sparsity=paths.effective_sparsity,
            densities=tuple(layer.density for layer in paths.layers),
            effective=tuple(layer.effective_density for layer in paths.layers),
        )
        return self._tried[count]

    def connected(self, count: int) -> bool:
        """Whether the mask of `count` connections leaves the network connected."""
        if count not in self._tried:
            mask = self.mask(count)
            kept = mask.kept_per_layer()
            self._tried[count] = MaskEffect(
                sparsity=1 - count / self.size,
                connected=self.links.connected(mask),
                effective_sparsity=None,
                densities=tuple(kept[name] / size for name, size in self.sizes.items()),
                effective=None,
            )
        return self._tried[count].connected

    def grid(self) -> list[int]:
        """The counts tried at first, from half of the connections to one."""
        ratio = (self.size / 2) ** (1 / max(1, self.points - 1))
        return sorted({max(1, round(self.size / 2 / ratio**i)) for i in range(self.points)}, reverse=True)

    def evaluations(self) -> int:
        """How many masks will be examined, about."""
        return self.points + (self.size.bit_length() if self.exact else self.points // 2)

    def seconds(self) -> float:
        """What the search will take, about, from one score and one check of the dense network."""
        start = time.perf_counter()
        with self.runner.inputs.scorer(self.trial, self.model) as scorer:
            select(scorer.score(self.batch), self.size // 2)
        middle = time.perf_counter()
        self.links.connected(Mask.whole({name: self.model.get_parameter(name) for name in self.sizes}))
        score, check = middle - start, time.perf_counter() - middle
        scores = 1 if self.exact else self.evaluations() * len(self.schedule.densities(0.05))
        return score * scores + check * (self.evaluations() + 2 * self.points)

    def steps(self) -> Iterator[MaskEffect]:
        """Every mask that is examined, one after the other; `result` is called afterwards."""
        for count in self.grid():
            yield self.examine(count)
        low = max((count for count, tried in self._tried.items() if not tried.connected), default=0)
        high = min((count for count in self._tried if count > low), default=self.size)
        for _ in range(64 if self.exact else self.points // 2):
            if high - low <= 1 or not low:
                break
            middle = round((low * high) ** 0.5) if high > 4 * low else (low + high) // 2
            self.connected(middle)
            yield self._tried[middle]
            low, high = (low, middle) if self._tried[middle].connected else (middle, high)
        self.ends = low, high

    def result(self, seconds: float) -> Collapse:
        """What was found."""
        low, high = self.ends
        first_cut = self.links.under(self.mask(low), paths=False).first_cut if low else None
        return Collapse(
            trial=self.settings.configuration(self.trial),
            size=self.size,
            connected_until=1 - high / self.size if self.connected(high) else None,
            cut_from=1 - low / self.size if low else None,
            first_cut=first_cut,
            exact=self.exact and self._division is None,  # shares of layers do not always shrink with their sum
            layers_until=self.layers_until(),
            tried=tuple(self._tried[count] for count in sorted(self._tried, reverse=True)),
            seconds=seconds,
            environment=Environment(**describe(self.runner.device)),
            provenance=SearchProvenance(
                **self.runner.provenance(),
                points=self.points,
                checksum=self.runner.inputs.loaded(self.trial).checksum,
            ),
        )

    def layers_until(self) -> dict[str, float]:
        """The highest sparsity at which each layer keeps a connection."""
        if not self.exact:
            return {
                name: max((tried.sparsity for tried in self._tried.values() if tried.densities[i]), default=0.0)
                for i, name in enumerate(self.sizes)
            }
        first = self.first_count if self._division is None else self.first_part
        return {name: 1 - first(name) / self.size for name in self.sizes}

    def first_count(self, name: str) -> int:
        """The smallest count at which a layer keeps its best connection, by the ranking of all."""
        assert self._scores is not None
        others, best = list(self._scores.values()), self._scores[name].max()
        above = sum(int((other > best).count_nonzero()) for other in others)
        earlier = sum(int((other == best).count_nonzero()) for other in others[: list(self._scores).index(name)])
        return above + earlier + 1

    def first_part(self, name: str) -> int:
        """The smallest count at which a scope gives a layer a connection."""
        return smallest(lambda count: (self.parts(count) or {})[name] > 0, self.size)


def smallest(holds: Callable[[int], bool], most: int) -> int:
    """The smallest count up to `most` at which `holds`, if it holds from there on."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
