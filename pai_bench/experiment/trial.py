"""Trials: the points of a sweep, fully resolved. Imports no torch, touches no file."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pai_bench.experiment.settings import ScoringSettings, TrainingSettings, names, with_effect
from pai_bench.experiment.sources import DataSource, ModelSource
from pai_bench.experiment.sweep import Sweep, refuse_duplicates
from pai_bench.support.errors import UserError
from pai_bench.support.identity import identify
from pai_bench.support.spec import identity_fields
from pai_bench.training.protocol import Protocol

if TYPE_CHECKING:
    from pai_bench.masks import Schedule
    from pai_bench.pruning import Variant
    from pai_bench.scoring import Criterion

DENSE = "dense"
"""The criterion of the unpruned reference."""


@dataclass(frozen=True, kw_only=True)
class Trial(TrainingSettings, ScoringSettings):
    """One point of a sweep. The dense reference has no criterion, schedule or variant, and no scoring settings."""

    data: DataSource
    model: ModelSource
    seed: int
    protocol: Protocol
    criterion: "Criterion | None" = None
    schedule: "Schedule | None" = None
    variant: "Variant | None" = None
    sparsity: float = 0.0
    scope: Literal["global", "layerwise", "quota"] = "global"
    score_batch: int = 0
    train_fraction: float = 1.0
    other_names: tuple[tuple[str, str], ...] = ()
    """Names of criteria, and those that stand for them in the configuration."""
    needs: tuple[str, ...] = field(default=(), compare=False)
    """Names of the networks that it begins with (`pai_bench.experiment.levels`)."""
    keeps: tuple[str, ...] = field(default=(), compare=False)
    """Names under which it keeps its network for others: trained, or after some steps."""

    @cached_property
    def criterion_name(self) -> str:
        """The criterion as it is written on the command line, or ``dense``."""
        return DENSE if self.criterion is None else self._named(self.criterion)

    @cached_property
    def variant_name(self) -> str:
        """The sanity variant as it is written on the command line."""
        return "none" if self.variant is None else self._named(self.variant)

    def _named(self, formula: object) -> str:
        text = str(formula)
        for name, other in self.other_names:
            text = text.replace(name, other)
        return text

    @property
    def structured(self) -> bool:
        """Whether whole units are removed, so that a smaller network is trained."""
        return self.criterion is not None and self.criterion.structured

    @property
    def changes_mask(self) -> bool:
        """Whether its mask changes while the network is trained."""
        return self.prunes_later or (self.criterion is not None and self.criterion.during)

    @property
    def begins_dense(self) -> bool:
        """Whether nothing is removed before the first step."""
        return self.prunes_later or (self.criterion is not None and self.criterion.begins_dense)

    @property
    def prunes_later(self) -> bool:
        """Whether a criterion that prunes at once does so after some steps."""
        return self.criterion is not None and (self.prune_at != "0" or self.prune_when == "stable")

    @property
    def training_kind(self) -> str:
        """The same for trials that may be trained together, as far as it depends on what prunes them."""
        if not self.structured:
            resets = getattr(self.criterion, "optimizer_state", "keep") == "reset"
            apart = getattr(self.criterion, "replaces_step", False) or resets or self.needs
            return self.criterion_name if apart else "masked"
        return self.identity if self.changes_mask else "smaller"

    @property
    def method(self) -> str:
        """The criterion, and the variant if it is not the plain one."""
        return self.criterion_name if self.variant_name == "none" else f"{self.criterion_name} + {self.variant_name}"

    def configuration(self) -> dict[str, Any]:
        """What the trial's result depends on, as plain JSON values.

        The dense reference leaves out everything that concerns scoring, so that all criteria share it. A setting that a
        later version adds is left out where it has the value that means the old behaviour.
        """
        keys: dict[str, Any] = {"data": self.data.name, "model": self.model.stored_name, "seed": self.seed}
        keys |= {"protocol": self.protocol.settings(), "criterion": None, "sparsity": self.sparsity}
        keys |= identity_fields(self, TrainingSettings)
        if self.model.version != 1:
            keys["model_version"] = self.model.version
        if self.criterion is not None and self.schedule is not None:
            keys["criterion"] = self.criterion.configuration(self.schedule) | {"name": self.criterion_name}
            if self.variant is not None and self.variant.redraws and self.structured:
                keys["criterion"]["revision"] += 1  # weights were drawn for the smaller network in another way at first
            keys |= identity_fields(self, ScoringSettings)
            keys |= {"variant": self.variant_name} if self.variant_name != "none" else {}
            keys |= {"traced": self.model.traced} if self.model.traced else {}
        plain: dict[str, Any] = json.loads(json.dumps(keys))
        return plain

    @property
    def former(self) -> "Trial | None":
        """The same trial under the names that its criteria had in earlier versions; None if they had no other."""
        formulas = (self.criterion, None if self.variant is None else self.variant.quota)
        former = tuple(f.renamed for f in formulas if f is not None and f.renamed)
        return dataclasses.replace(self, other_names=former) if former else None

    @cached_property
    def identity(self) -> str:
        """A readable prefix and a hash of the canonical JSON of the configuration; a valid file name."""
        readable = f"{self.data}-{self.model.stored_name}-{self.method}-{self.sparsity:g}-s{self.seed}"
        return identify(readable, self.configuration())


def fraction(sweep: Sweep, protocol: Protocol) -> float:
    """The share of the training set that is used."""
    return protocol.train_fraction if sweep.train_fraction is None else sweep.train_fraction


def expand(
    sweep: Sweep,
    criteria: "Sequence[tuple[Criterion, Schedule]]",
    networks: Sequence[tuple[DataSource, ModelSource, Protocol, int]],
    variants: "Sequence[Variant | None]" = (None,),
) -> list[Trial]:
    """All trials of `sweep`, seed by seed, the dense reference of each (data, model, seed) first.

    `networks` are the resolved (data, model, protocol, score batch size).
    """
    refuse_duplicates("criteria", [str(criterion) for criterion, _ in criteria])
    if DENSE in (str(criterion) for criterion, _ in criteria):
        raise UserError(f"a criterion cannot be called {DENSE!r}: that is the unpruned reference")
    given = {name: getattr(sweep, name) for name in (*names(TrainingSettings), *names(ScoringSettings))}
    trials = []
    for seed in sweep.seed_list:
        for data, model, protocol, score_batch in networks:
            settings = with_effect(given | {"train_fraction": fraction(sweep, protocol), "score_batch": score_batch})
            training, scoring = ({n: settings[n] for n in names(of)} for of in (TrainingSettings, ScoringSettings))
            dense = Trial(data=data, model=model, seed=seed, protocol=protocol, **training)
            trials.append(dense)
            trials += [
                dataclasses.replace(
                    dense,
                    criterion=criterion,
                    schedule=schedule,
                    variant=variant,
                    sparsity=sparsity,
                    **scoring | {"scope": scope},
                )
                for criterion, schedule in criteria
                for variant in variants
                for scope in ["quota" if variant and variant.quota is not None else sweep.scope or criterion.scope]
                for sparsity in sweep.sparsities
            ]
    return trials
