"""How scores become a mask: schedule, scope, variant, and the policies that keep a network connected."""

from dataclasses import dataclass
from typing import Literal, get_args

from pai_bench.masks import Schedule, Scope, get_schedule
from pai_bench.pruning.variant import Variant, get_variant
from pai_bench.scoring import Criterion
from pai_bench.support import spec
from pai_bench.support.errors import UserError, check_least

Target = Literal["direct", "effective"]
"""What a sparsity counts: removed connections, or connections that are removed or lie on no path."""

Repair = Literal["none", "effective-only"]
"""What is done about kept connections that lie on no path: nothing, or others are kept in their place."""


@dataclass(frozen=True, kw_only=True)
class PruningOptions:
    """How the scores of a criterion become a mask.

    * `schedule`, `scope`: replace those of the criterion.
    * `variant`: a sanity variant (`pai_bench.pruning.variant`). ``reinit`` gives the criterion's mask; drawing the
      weights again is left to the caller, for example by `redraw_`.
    * `target`: with ``effective``, the sparsity counts connections that are removed or lie on no path
      (`pai_bench.connectivity`). Fewer are removed, until the effective density is the one asked for, or as near to it
      as bisection gets.
    * `min_per_layer`: at least so many connections of each layer are kept, or below 1, that share of them: those with
      its highest scores.
    * `repair`: with ``effective-only``, connections that lie on no path are replaced by those with the next-best scores
      (`pai_bench.pruning.repair`). The first example of the batch is traced.
    """

    schedule: str | Schedule | None = None
    scope: Scope | None = None
    variant: str | Variant = "none"
    target: Target = "direct"
    min_per_layer: float = 0
    repair: Repair = "none"

    def of(self, criterion: Criterion) -> "ResolvedOptions":
        """The options as objects, with the defaults of `criterion`. Raises `UserError` for options that conflict."""
        least, variant = spec.convert(self.min_per_layer, int | float, "min_per_layer"), get_variant(self.variant)
        check_policy(self.target, self.repair, least)
        check_ties(criterion, variant, self.target, self.repair, least)
        schedule = get_schedule(criterion.schedule if self.schedule is None else self.schedule)
        if variant.quota is not None and self.scope not in (None, "quota"):
            raise UserError(
                f"scope {self.scope} and variant {variant} both divide the connections over the layers; give one"
            )
        scope = self.scope or criterion.scope
        if self.repair != "none" and not (
            variant.name in ("none", "reinit", "invert") and scope == "global" and not least
        ):
            raise UserError(
                f"repair {self.repair} ranks all layers together: not with this scope, variant or min_per_layer"
            )
        return ResolvedOptions(schedule, scope, variant, self.target, least, self.repair)


@dataclass(frozen=True)
class ResolvedOptions:
    """`PruningOptions` for one criterion, as objects, checked."""

    schedule: Schedule
    scope: Scope
    variant: Variant
    target: Target
    min_per_layer: float
    repair: Repair


def check_policy(target: str, repair: str, min_per_layer: float) -> None:
    """Raise for values of the policies that do not exist."""
    for value, literal, name in ((target, Target, "target"), (repair, Repair, "repair")):
        if value not in get_args(literal):
            raise UserError(f"{name} {value!r} is not one of {', '.join(get_args(literal))}")
    check_least(min_per_layer)


def check_ties(criterion: Criterion, variant: Variant, target: str, repair: str, min_per_layer: float) -> None:
    """Raise for options that need an exact number of connections, with criteria that may keep more or fewer."""
    if target == "effective" or repair != "none" or min_per_layer or variant.quota is not None:
        for inexact in (criterion, variant.quota):
            if inexact is not None and inexact.ties != "position":
                raise UserError(
                    f"{inexact} may keep more or fewer; target, repair, min_per_layer and quota need the exact number"
                )
