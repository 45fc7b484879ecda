"""From a sweep to its trials. Pure: imports no torch, touches no file."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any, Literal, get_type_hints

from pai_bench import spec
from pai_bench.errors import UserError
from pai_bench.identity import identify
from pai_bench.law import Law
from pai_bench.networks import STORED_NAMES
from pai_bench.training.protocol import Protocol

DENSE = "dense"
"""The criterion of the unpruned reference."""


MOST_TRIALS = 1_000_000
"""Pruned ones of one sweep: each is an object in memory, and a file."""


def option(default: Any, help: str, *, axis: bool = False, least: float | None = None) -> Any:
    """A field of `Sweep`: a key of a recipe and a flag of ``pai-bench run``."""
    return field(default=default, metadata={"help": help, "axis": axis, "least": least})


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid of trials: every criterion at every sparsity, on every model and data set, for every seed.

    Criteria, models and data may be names or one's own objects: a `Criterion`, a function of input shape and number of
    classes that builds an ``nn.Module``, a `DataSet`. Every field is a key of a recipe and a flag of ``pai-bench run``.
    """

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
    schedule: str | None = option(None, "schedule for all criteria, as NAME[:steps=N]; default: each one's own")
    variants: Sequence[Any] = option(
        ("none",), "sanity variants: none, shuffle, global-shuffle, reinit, invert, quota:NAME", axis=True
    )
    scope: Literal["global", "layerwise"] | None = option(
        None, "rank all layers together, or keep the same share of each; default: the criterion's own, mostly global"
    )
    target: Literal["direct", "effective"] = option(
        "direct", "what a sparsity counts: connections removed, or removed or on no path"
    )
    min_per_layer: int = option(0, "connections that every layer keeps at least", least=0)
    repair: Literal["none", "effective-only"] = option(
        "none", "effective-only: connections on no path give their place to those with the next-best scores"
    )
    prunable: str | None = option(
        None,
        "which parameters to prune, as patterns of their names, with commas between; a name without * or ? may be any "
        "parameter; default: the weights of linear, convolutional, recurrent and attention layers, and what else "
        "multiplies the data",
    )
    keep_first: bool = option(False, "leave the first of the prunable layers whole")
    keep_last: bool = option(False, "leave the last of the prunable layers whole")
    bn: Literal["published", "train", "eval"] = option(
        "published", "batch norm while scoring: each criterion's published mode, or one for all"
    )
    score_batch: int | None = option(None, "examples in a score batch; default: 10 per class", least=1)
    score_batches: int = option(1, "number of score batches; see the criteria's option accumulate", least=1)
    score_sampling: str = option(
        "balanced", "how the score batch is drawn: balanced over classes, random, or class-N, of class N alone"
    )
    protocol: str | None = option(
        None,
        "training protocol, see `pai-bench list protocols`; default: short-adam, or short-adam-bn with batch norm",
    )
    epochs: int | None = option(None, "epochs of training; default: the protocol's", least=0)
    batch_size: int | None = option(None, "training batch; default: the protocol's", least=1)
    learning_rate: float | None = option(None, "peak learning rate; default: the protocol's")
    weight_decay: float | None = option(None, "weight decay; default: the protocol's")
    precision: Literal["fp32", "tf32", "bf16"] = option("fp32", "arithmetic of the training; tf32 needs a CUDA device")
    compile: bool = option(False, "let torch.compile make the training step; takes a compiler, and a while to begin")
    train_disconnected: bool = option(False, "train also the networks that their mask has disconnected")
    budget: float = option(1.0, "share of the protocol's length, in (0, 1]")
    train_fraction: float | None = option(
        None, "share of the training set to use, drawn by seed; default: the protocol's, mostly all of it"
    )
    init: Literal["own", Law] = option(
        "own",
        "initial weights: the network's own, Glorot (vs-x), He (vs-h), LeCun (vs), normal (rn), truncated normal (tn), "
        "the last two of deviation 1",
    )
    label_noise: float = option(
        0.0, "probability with which a training label is replaced by a random one; scoring sees the true ones"
    )
    validation: float = option(
        0.0, "share of the training set that is held out and takes the place of the test set, to choose settings by"
    )
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

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
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
            else:  # the same value is to have the same identity, however it was given
                value = spec.convert(value, hints[f.name], f.name.replace("_", "-"))
            object.__setattr__(self, f.name, value)
            if (least := f.metadata["least"]) is not None and isinstance(value, int) and value < least:
                raise UserError(f"{f.name.replace('_', '-')} {value} must be at least {least}")
        for sparsity in self.sparsities:
            if not 0 <= sparsity < 1:
                raise UserError(f"sparsity {sparsity:g} is outside [0, 1): it is the share of weights removed")
        axes = (self.data, self.models, self.criteria, self.variants, self.sparsities)
        seeds = self.seeds if isinstance(self.seeds, int) else len(self.seeds)  # a range may be too long for len
        if (trials := seeds * math.prod(map(len, axes))) > MOST_TRIALS:
            raise UserError(f"a sweep of {trials:,} trials is too large, the most is {MOST_TRIALS:,}: give fewer seeds")
        if not 0 < self.budget <= 1:
            raise UserError(f"budget {self.budget:g} is outside (0, 1]: it is the share of the protocol's length")
        if not re.fullmatch(r"balanced|random|class-\d+", self.score_sampling):
            raise UserError(f"score-sampling {self.score_sampling!r} is not balanced, random or class-N")
        if self.train_fraction is not None and not 0 < self.train_fraction <= 1:
            raise UserError(f"train-fraction {self.train_fraction:g} is outside (0, 1]")
        if not 0 <= self.label_noise <= 1:
            raise UserError(f"label-noise {self.label_noise:g} is outside [0, 1]: it is a probability")
        if self.compile and self.together == "branches":
            raise UserError("together branches cannot be compiled: torch.compile knows no streams; use stacked")
        if not 0 <= self.validation < 1:
            raise UserError(f"validation {self.validation:g} is outside [0, 1): it is a share of the training set")

    @property
    def each_seed(self) -> Sequence[int]:
        """The seeds, in their order."""
        return range(self.seeds) if isinstance(self.seeds, int) else self.seeds

    @property
    def by_name(self) -> bool:
        """Whether everything in it is a name, so that another process finds the same."""
        return all(isinstance(one, str) for one in (*self.criteria, *self.models, *self.data, *self.variants))

    @property
    def has_foreign_code(self) -> bool:
        """Whether it names networks or criteria that are not pai-bench's own: of a file, a module, another package."""
        formulas = [one for one in (*self.criteria, *self.variants) if isinstance(one, str)]
        networks = [one for one in self.models if isinstance(one, str)]
        return any(".py:" in one for one in formulas) or any(":" in one for one in networks)


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


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A criterion as a plan needs it: its text, all its options, its revision and its schedule."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    revision: int = 1
    schedule: str = "one-shot"
    scope: str = "global"


SCORING = {
    **{"scope": None, "score_batch": None, "score_sampling": None, "variant": "none", "score_batches": 1},
    **{"target": "direct", "min_per_layer": 0, "repair": "none"},
    **{"prunable": None, "keep_first": False, "keep_last": False, "traced": []},
}
"""Fields of `Trial` that concern scoring -> the value at which a field that came later is left out of the identity."""

LATER = {"init": "own", "label_noise": 0.0, "validation": 0.0, "model_version": 1}
"""Other fields of `Trial` that came later -> the value at which they are left out of the identity."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of a sweep, fully resolved. The dense reference has no criterion, schedule or scope."""

    data: str
    model: str
    seed: int
    protocol: Protocol
    criterion: Choice | None = None
    sparsity: float = 0.0
    scope: Literal["global", "layerwise", "quota"] = "global"
    score_batch: int = 0
    score_sampling: str = "balanced"
    train_fraction: float = 1.0
    variant: str = "none"
    score_batches: int = 1
    target: Literal["direct", "effective"] = "direct"
    min_per_layer: int = 0
    repair: Literal["none", "effective-only"] = "none"
    init: str = "own"
    label_noise: float = 0.0
    validation: float = 0.0
    model_version: int = 1
    prunable: str | None = None
    keep_first: bool = False
    keep_last: bool = False
    traced: tuple[str, ...] = ()
    """Weights of the network outside of the usual layers (`pai_bench.pruning.prunable.further`)."""

    @property
    def criterion_name(self) -> str:
        """The criterion as it is written on the command line, or ``dense``."""
        return self.criterion.name if self.criterion else DENSE

    @property
    def stored_model(self) -> str:
        """The name of the network in stored results (`pai_bench.networks`)."""
        return STORED_NAMES.get(self.model, self.model)

    @property
    def method(self) -> str:
        """The criterion, and the variant if it is not the plain one."""
        return self.criterion_name if self.variant == "none" else f"{self.criterion_name} + {self.variant}"

    def configuration(self) -> dict[str, Any]:
        """What the trial's result depends on, as plain JSON values.

        The dense reference leaves out everything that concerns scoring, so that all criteria share it. A field that a
        later version adds is left out here where it has the value that means the old behaviour.
        """
        everything = json.loads(json.dumps(dataclasses.asdict(self)))
        everything["model"] = self.stored_model
        for key, later in SCORING.items():
            if self.criterion is None or everything[key] == later:
                del everything[key]
        for key, later in LATER.items():
            if everything[key] == later:
                del everything[key]
        if self.criterion is not None:
            del everything["criterion"]["scope"]  # the trial's own says which it was
        everything["protocol"] = json.loads(json.dumps(self.protocol.settings()))
        assert isinstance(everything, dict)
        return everything

    def renamed(self, names: Mapping[str, str]) -> "Trial | None":
        """The same trial by criteria of other `names`; None if it has none of them."""
        if self.criterion is None:
            return None
        label, variant = self.criterion.name, self.variant
        for name, other in names.items():
            label, variant = label.replace(name, other), variant.replace(name, other)
        if (label, variant) == (self.criterion.name, self.variant):
            return None
        return dataclasses.replace(self, criterion=dataclasses.replace(self.criterion, name=label), variant=variant)

    @cached_property
    def identity(self) -> str:
        """A readable prefix and a hash of the canonical JSON of the configuration; a valid file name."""
        readable = f"{self.data}-{self.stored_model}-{self.method}-{self.sparsity:g}-s{self.seed}"
        return identify(readable, self.configuration())


def fraction(sweep: Sweep, protocol: Protocol) -> float:
    """The share of the training set that is used."""
    return protocol.train_fraction if sweep.train_fraction is None else sweep.train_fraction


def expand(
    sweep: Sweep,
    choices: Sequence[Choice],
    settings: Iterable[tuple[str, str, Protocol, int, int, tuple[str, ...]]],
    variants: Sequence[str] = ("none",),
) -> list[Trial]:
    """All trials of `sweep`, seed by seed, the dense reference of each (data, model, seed) first.

    `choices` are the resolved criteria; `settings` the resolved (data, model, protocol, score batch size, version of
    the network, its weights outside of the usual layers); `variants` are written in one way.
    """
    refuse_duplicates("criteria", [choice.name for choice in choices])
    if DENSE in (choice.name for choice in choices):
        raise UserError(f"a criterion cannot be called {DENSE!r}: that is the unpruned reference")
    trials = []
    for seed in sweep.each_seed:
        for data, model, protocol, batch, version, traced in settings:
            common: dict[str, Any] = {
                "data": data,
                "model": model,
                "model_version": version,
                "traced": traced,
                "seed": seed,
                "protocol": protocol,
                "train_fraction": fraction(sweep, protocol),
                "init": sweep.init,
                "label_noise": sweep.label_noise,
                "validation": sweep.validation,
            }
            trials.append(Trial(**common))
            scoring: dict[str, Any] = {
                "score_batch": batch,
                "score_sampling": sweep.score_sampling,
                "score_batches": sweep.score_batches,
                "target": sweep.target,
                "min_per_layer": sweep.min_per_layer,
                "repair": sweep.repair,
                "prunable": sweep.prunable,
                "keep_first": sweep.keep_first,
                "keep_last": sweep.keep_last,
            }
            trials += [
                Trial(
                    **common,
                    **scoring,
                    criterion=choice,
                    variant=variant,
                    sparsity=sparsity,
                    scope="quota" if variant.startswith("quota:") else sweep.scope or choice.scope,  # type: ignore[arg-type]
                )
                for choice in choices
                for variant in variants
                for sparsity in sweep.sparsities
            ]
    return trials
