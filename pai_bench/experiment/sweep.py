"""A sweep: what its trials have in common and in what they differ. Imports no torch, touches no file."""

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_type_hints

from pai_bench.experiment.settings import ScoringSettings, TrainingSettings, check_value, one_time, option
from pai_bench.support import spec
from pai_bench.support.durations import seconds_of
from pai_bench.support.errors import UserError, check_least, no_sparsity
from pai_bench.training.protocol import DEFAULT, DEFAULT_WITH_BATCH_NORM

MOST_TRIALS = 1_000_000
"""Pruned ones of one sweep: each is an object in memory, and a file."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The grid, and what is asked of all its criteria."""

    criteria: Sequence[Any] = option(
        ("snip", "random"), "criteria, as NAME[:OPTION=VALUE]... or ./file.py:Class", axis=True
    )
    models: Sequence[Any] = option(
        ("lenet",), "networks; `pai-bench list models` names them; or ./file.py:FUNCTION", axis=True
    )
    data: Sequence[Any] = option(
        ("digits",), "data sets; `pai-bench list data` names them; or ./file.py:FUNCTION", axis=True
    )
    sparsities: Sequence[float] = option((0.95, 0.98), "shares of weights removed, in [0, 1)", axis=True)
    seeds: int | Sequence[int] = option(
        3,
        "number of paired seeds, which are then 0, 1, ...; or a list of them, as 0,3,5 (5, for the seed 5 alone)",
        least=1,
    )
    schedule: str | None = option(
        None, "schedule for all criteria, as NAME[:steps=N], see `pai-bench list schedules`; default: each one's own"
    )
    variants: Sequence[Any] = option(
        ("none",), "sanity variants: none, shuffle, global-shuffle, reinit, invert, quota:NAME", axis=True
    )
    bn: Literal["published", "train", "eval"] = option(
        "published", "batch norm while scoring: each criterion's published mode, or one for all"
    )


@dataclass(frozen=True, kw_only=True)
class ProtocolSettings:
    """How networks are trained: a protocol, and what replaces parts of it."""

    protocol: str | None = option(
        None,
        "training protocol, see `pai-bench list protocols`; "
        f"default: {DEFAULT}, or {DEFAULT_WITH_BATCH_NORM} with batch norm",
    )
    epochs: int | None = option(None, "epochs of training; default: the protocol's", least=0)
    batch_size: int | None = option(None, "training batch; default: the protocol's", least=1)
    learning_rate: float | None = option(None, "peak learning rate; default: the protocol's")
    weight_decay: float | None = option(None, "weight decay; default: the protocol's")
    precision: Literal["fp32", "tf32", "bf16"] = option("fp32", "arithmetic of the training; tf32 needs a CUDA device")
    budget: float = option(
        1.0, "share of the protocol's length, in (0, 1]", within="(0, 1]: it is the share of the protocol's length"
    )


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where trials run, and how many at once, on which no result depends; and what is trained, kept and evaluated."""

    evaluate: str | None = option(
        None,
        "metrics of the trained networks, with commas between, as gap,verdict-linf:eps=0.1; see `pai-bench list "
        "metrics`",
        shown="A,B,...",
    )
    keep_networks: bool = option(False, "keep the trained networks in the results folder, to be evaluated later")
    train_disconnected: bool = option(False, "train also the networks that their mask has disconnected")
    compile: bool = option(False, "let torch.compile make the training step; takes a compiler, and a while to begin")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    data_dir: str | None = option(None, "directory of data files; also PAI_BENCH_DATA")
    workers: int | Literal["auto"] = option(
        "auto",
        "worker processes, which share the processor's threads (1: one trial after the other, in this process where "
        "all networks and criteria are pai-bench's own)",
        least=1,
    )
    lanes: int | Literal["auto"] = option("auto", "trials trained together, in one program (1: one by one)", least=1)
    together: Literal["auto", "stacked", "branches"] = option(
        "auto", "how they are: as one stack of parameters, or as branches side by side; auto measures both on a GPU"
    )
    checkpoint_every: str = option(
        "5m",
        "time after which a training is saved in the results folder, again and again, as 90s, 5m or 2h, from which it "
        "resumes after a crash; never: not at all, also not when it is interrupted",
        shown="TIME|never",
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics to evaluate."""
        return listed(self.evaluate or "")

    @property
    def checkpoint_seconds(self) -> float | None:
        """Seconds between two checkpoints; None for no checkpoints."""
        if self.checkpoint_every == "never":
            return None
        return seconds_of(self.checkpoint_every, "checkpoint-every")


@dataclass(frozen=True, kw_only=True)
class Sweep(Execution, TrainingSettings, ProtocolSettings, ScoringSettings, Axes):
    """A grid of trials: every criterion at every sparsity, on every model and data set, for every seed.

    Criteria, models and data may be names or one's own objects: a `Criterion`, a function of input shape and number of
    classes that builds an ``nn.Module``, a `DataSet`. Every field is a key of a recipe and a flag of ``pai-bench run``.
    """

    scope: Literal["global", "layerwise"] | None = dataclasses.field(
        default=None, metadata=ScoringSettings.__dataclass_fields__["scope"].metadata
    )

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.metadata["axis"]:
                value = checked_axis(f.name, value)
            elif f.name == "seeds":
                value = checked_seeds(value)
            elif isinstance(value, os.PathLike):
                value = os.fspath(value)
            elif f.name == "schedule" and value is not None:
                value = str(value)
            elif f.name == "prune_at":
                value = one_time(str(value))
            else:  # the same value is to have the same identity, however it was given
                value = spec.convert(value, hints[f.name], f.name.replace("_", "-"))
            object.__setattr__(self, f.name, value)
            check_value(f.name, value, f.metadata)
        check_least(self.min_per_layer, "min-per-layer")
        _ = self.checkpoint_seconds  # which refuses what is no duration
        for sparsity in self.sparsities:
            if not 0 <= sparsity < 1:
                raise no_sparsity(sparsity, self.sparsity_of)
        axes = (self.data, self.models, self.criteria, self.variants, self.sparsities)
        seeds = self.seeds if isinstance(self.seeds, int) else len(self.seeds)  # a range may be too long for len
        if (trials := seeds * math.prod(map(len, axes))) > MOST_TRIALS:
            raise UserError(f"a sweep of {trials:,} trials is too large, the most is {MOST_TRIALS:,}: give fewer seeds")
        if not re.fullmatch(r"balanced|random|class-\d+", self.score_sampling):
            raise UserError(f"score-sampling {self.score_sampling!r} is not balanced, random or class-N")
        refuse_conflicts(self)

    @property
    def seed_list(self) -> Sequence[int]:
        """The seeds, in their order."""
        return range(self.seeds) if isinstance(self.seeds, int) else self.seeds

    @property
    def by_name(self) -> bool:
        """Whether everything in it is a name, so that another process finds the same."""
        return all(isinstance(value, str) for value in (*self.criteria, *self.models, *self.data, *self.variants))

    @property
    def has_foreign_code(self) -> bool:
        """Whether it names networks or criteria that are not pai-bench's own: of a file, a module, another package."""
        formulas = [formula for formula in (*self.criteria, *self.variants) if isinstance(formula, str)]
        networks = [network for network in self.models if isinstance(network, str)]
        return any(".py:" in formula for formula in formulas) or any(":" in network for network in networks)


def listed(text: str) -> tuple[str, ...]:
    """The names in a list with commas between."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def refuse_conflicts(sweep: Sweep) -> None:
    """Raise UserError for settings of which one excludes the other."""
    if sweep.label_noise == "permute" and sweep.label_law != "bernoulli":
        raise UserError(f"label-law {sweep.label_law} is for a share of the labels, and label-noise permute is for all")
    if sweep.compile and sweep.together == "branches":
        raise UserError("together branches cannot be compiled: torch.compile knows no streams; use stacked")


def checked_axis(name: str, values: Any) -> tuple[Any, ...]:
    """An axis of the grid as a tuple: not empty and without duplicates. A single value is an axis of length one."""
    alone = isinstance(values, (str, Real)) or callable(values)  # networks, too, are iterable
    axis = (values,) if alone or not isinstance(values, Iterable) else tuple(values)
    if not axis or "" in [v for v in axis if isinstance(v, str)]:
        raise UserError(f"{name}: the list is empty or has an empty entry")
    if name == "sparsities":
        axis = tuple(spec.convert(value, float, "sparsity") for value in axis)
    refuse_duplicates(name, axis)
    return axis


def checked_seeds(value: Any, label: str = "seeds") -> int | tuple[int, ...]:
    """A number of seeds, or a list of them, also as a text: ``3``, ``0,3,5``, and ``5,`` for the seed 5 alone."""
    if isinstance(value, str) and "," in value:
        value = [seed.strip() for seed in value.removesuffix(",").split(",")]
        if not all(value):
            raise UserError(f"{label}: the list is empty or has an empty entry")
    if isinstance(value, str) or not isinstance(value, Iterable):
        number: int = spec.convert(value, int, label)
        return number
    seeds = tuple(spec.convert(seed, int, label) for seed in value)
    if not seeds or min(seeds) < 0:
        raise UserError(f"{label}: the list is empty or has a negative seed")
    refuse_duplicates(label, seeds)
    return seeds


def refuse_duplicates(name: str, values: Sequence[Any]) -> None:
    """Every trial is run once, so nothing may stand twice on an axis."""
    for i, value in enumerate(values):
        try:
            known = value in values[:i]
        except (RuntimeError, ValueError):  # of tensors, which are compared element by element
            known = False
        if known:
            raise UserError(f"{name}: {value} is given twice")
