"""Sanity variants: changes of a mask that should harm a criterion, if its ranking of single connections matters.

* ``none``: the criterion as it is;
* ``shuffle``: its mask permuted inside each layer; ``global-shuffle``: over all layers;
* ``reinit``: its mask, and the weights drawn again after masking;
* ``invert``: the lowest scores kept, at every cut of a schedule;
* ``quota:NAME``: the count of each layer from the criterion NAME, filled by this criterion's ranking in the layer.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pai_bench.masks.schedule import get_schedule
from pai_bench.masks.selection import select
from pai_bench.scoring.criterion import Criterion
from pai_bench.scoring.lookup import get_criterion
from pai_bench.support.errors import UserError, unknown
from pai_bench.support.identity import stream
from pai_bench.support.randomness import random_state
from pai_bench.support.transfers import counts

VARIANTS = ("none", "shuffle", "global-shuffle", "reinit", "invert", "quota:NAME")


@dataclass(frozen=True)
class Variant:
    """A sanity variant by its `name`, one of `VARIANTS`; `quota` is the criterion that gives each layer its count."""

    name: str = "none"
    quota: Criterion | None = None

    def __str__(self) -> str:
        """The text that `get_variant` reads back, if the quota's criterion is a registered one."""
        if self.quota is None:
            return self.name
        # another version of the formula is another variant
        version = self.quota.formula_version_under(get_schedule(self.quota.schedule))
        return f"quota:{self.quota}" + f"@{version}" * (version > 1)

    @property
    def inverted(self) -> bool:
        """Whether the lowest scores are kept."""
        return self.name == "invert"

    @property
    def redraws(self) -> bool:
        """Whether the weights are drawn again after masking."""
        return self.name == "reinit"

    def arrange(self, mask: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        """`mask`, permuted if the variant is a shuffle."""
        if self.name not in ("shuffle", "global-shuffle"):
            return mask
        return permuted(mask, seed, across=self.name == "global-shuffle")


def get_variant(text: Any) -> Variant:
    """The variant written as one of `VARIANTS`; ``-`` and ``_`` are the same. Raises `UserError` for another text."""
    if isinstance(text, Variant):
        return text
    name, colon, argument = str(text).strip().partition(":")
    if name == "quota" and argument:
        return Variant("quota", get_criterion(argument))
    name = name.replace("_", "-")
    if name == "quota":
        raise UserError("variant quota needs the name of a criterion, for example quota:erk")
    if colon or name not in VARIANTS:
        raise unknown("variant", str(text), VARIANTS)
    return Variant(name)


def permuted(mask: dict[str, Tensor], seed: int, *, across: bool) -> dict[str, Tensor]:
    """`mask` permuted at random, inside each layer or `across` all layers; the same on every device."""
    kept = dict(zip(mask, counts(mask.values()), strict=True))
    with random_state(stream(seed, "shuffle")):
        # a mask has two values only, so its permutation is a random choice of as many positions
        scores = {name: torch.rand(tensor.shape, dtype=torch.float64, device="cpu") for name, tensor in mask.items()}
    chosen = select(scores, sum(kept.values()) if across else kept)
    return {name: tensor.to(mask[name].device) for name, tensor in chosen.items()}
