"""What the configuration of a trial has to be like, in a structure for each kind: keys that came later have defaults.

A result keeps its configuration as it is stored, since its identity is the hash of that; these only check it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from msgspec import Meta

from pai_bench.experiment.settings import ScoringSettings, TrainingSettings
from pai_bench.results.values import HUGE, MOST, TINY, Count, PositiveCount, Share, ShareBelow1, Zero, fits
from pai_bench.support.errors import UserError


@dataclass(frozen=True, kw_only=True)
class UsedCriterion:
    """The criterion in the configuration of a trial."""

    name: Annotated[str, Meta(pattern=r"^(?!dense\Z)")]
    schedule: str
    revision: int
    options: tuple[tuple[str, Any], ...]

    UNLIMITED: ClassVar = ("options",)


@dataclass(frozen=True, kw_only=True)
class UsedProtocol:
    """The protocol in the configuration of a trial."""

    batch_size: int
    budget: float | int = 1


@dataclass(frozen=True, kw_only=True)
class Named:
    """What the configuration of every trial says."""

    data: str
    model: str
    model_version: int = 1
    seed: Count


@dataclass(frozen=True, kw_only=True)
class Scoring(ScoringSettings, Named):
    """The configuration of a search for where a network falls apart, in which a criterion scores and nothing trains."""

    criterion: UsedCriterion
    scope: Literal["global", "layerwise", "quota"]
    score_batch: PositiveCount
    score_sampling: str
    variant: str = "none"
    traced: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Trained(TrainingSettings, Named):
    """What the configuration of a trial says of training."""

    train_fraction: Share
    label_noise: Share | Literal["permute"] = 0.0
    validation: Share = 0.0
    protocol: UsedProtocol


@dataclass(frozen=True, kw_only=True)
class DenseTrial(Trained):
    """The configuration of a dense reference."""

    criterion: None
    sparsity: Zero


@dataclass(frozen=True, kw_only=True)
class ScoredTrial(Trained, Scoring):
    """The configuration of a trial with a criterion."""

    sparsity: ShareBelow1


def structure_of(trial: Mapping[str, Any]) -> type[DenseTrial | ScoredTrial]:
    """The structure of the configuration of a trial."""
    return DenseTrial if trial["criterion"] is None else ScoredTrial


def check_settings(name: str, trial: Mapping[str, Any]) -> None:
    """Raise UserError if the configuration of the trial called `name` has a value that no record can hold."""
    structure = structure_of(trial)
    if not fits(trial, structure):
        hints = get_type_hints(structure, include_extras=True)
        wrong = [f"{key} {trial[key]!r}" for key, form in hints.items() if key in trial and not fits(trial[key], form)]
        raise UserError(
            f"trial {name} could not be stored: {', '.join(wrong)}; texts must be Unicode, numbers 0 or {TINY:g} to "
            f"{HUGE:g}, whole ones at most {MOST:,}"
        )
