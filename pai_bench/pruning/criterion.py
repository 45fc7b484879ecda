"""The contract of a criterion: `Batch` in, `Scores` out, and which parameters are prunable."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pai_bench import spec
from pai_bench.errors import UserError
from pai_bench.pruning.schedule import OneShot, Schedule

Scores = dict[str, Tensor]
"""Parameter name -> saliency, of the parameter's shape and device; higher means keep."""

BatchNormMode = Literal["train", "eval"]


@dataclass(frozen=True)
class Batch:
    """Labelled examples: `inputs` of shape (N, ...) and class indices `targets` of shape (N,)."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) == 0:
            raise UserError("the batch is empty")
        if self.targets.shape != (len(self.inputs),) or self.targets.is_floating_point():
            shape, dtype = tuple(self.targets.shape), self.targets.dtype
            raise UserError(
                f"targets must be {len(self.inputs)} class indices, one per input, not {dtype} of shape {shape}"
            )
        object.__setattr__(self, "targets", self.targets.long())

    def __iter__(self) -> Iterator[Tensor]:
        yield self.inputs
        yield self.targets

    def to(self, device: torch.device | str) -> "Batch":
        """The same examples on `device`."""
        return Batch(self.inputs.to(device), self.targets.to(device))


BatchLike = Batch | tuple[Tensor, Tensor]


def as_batch(batch: BatchLike) -> Batch:
    """A `Batch` from a `Batch` or from a plain ``(inputs, targets)`` tuple."""
    return batch if isinstance(batch, Batch) else Batch(*batch)


_WHOLE_WEIGHT = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def _weight_names(module: nn.Module) -> list[str]:
    """The names, inside `module` itself, of the weights that can be pruned."""
    if isinstance(module, _WHOLE_WEIGHT):
        return ["weight"]
    if isinstance(module, nn.MultiheadAttention):
        return list(_PROJECTIONS)
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return [name for name, _ in module.named_parameters(recurse=False) if name.startswith("weight")]
    return []


def prunable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that pruning may remove, by name, in the model's own order.

    These are the weights, not the biases, of linear layers, convolutions, recurrent layers and attention projections;
    never those of normalisation or embeddings. A weight that several modules share counts once.
    """
    prunable: set[int] = set()
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        prunable.update(id(own[name]) for name in _weight_names(module) if name in own)
    found = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in prunable}
    if not found:
        raise UserError(f"{type(model).__name__} has no prunable weight (Linear, Conv, RNN, attention)")
    return found


@dataclass(frozen=True, kw_only=True)
class Criterion(ABC):
    """A saliency criterion: its formula, the facts about it, and its options as fields.

    A subclass implements `score`. What a caller gets under that name is guarded: the formula sees a private
    copy of the network, so the caller's model, its gradients, buffers, flags and all random states stay bit for bit
    what they were, and what comes back is checked (`pai_bench.pruning.guard`).

    Options of every criterion:

    * ``bn``: which statistics batch norm uses while scoring, those of the batch (``train``) or the running ones
      (``eval``). Dropout is always off.
    * ``seed``: of the criterion's own randomness; by default the caller's.
    """

    bn: BatchNormMode = "eval"
    seed: int | None = None

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    schedule: ClassVar[Schedule] = OneShot()
    uses_data: ClassVar[bool] = True
    """Whether the score depends on the batch; where it does not, neither does it depend on ``bn``."""
    revision: ClassVar[int] = 1
    """Raised whenever the formula changes, so that old results are not taken for new ones."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for fact in ("name", "source"):  # a subclass of a registered criterion is another criterion
            if fact not in vars(cls):
                setattr(cls, fact, "")
        if not hasattr(cls.score, "formula") and not getattr(cls.score, "__isabstractmethod__", False):
            from pai_bench.pruning.guard import guarded

            cls.score = guarded(cls.score)  # type: ignore[assignment, method-assign]

    def __post_init__(self) -> None:
        hints = spec.option_types(type(self))
        for f in fields(self):
            if f.name in hints:
                label = f"{self.name or type(self).__name__}:{f.name}"
                object.__setattr__(self, f.name, spec.convert(getattr(self, f.name), hints[f.name], label))
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed} is outside 0..2**63")

    @abstractmethod
    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """Saliencies of all prunable weights of `model`, from `batch` (also given as a plain tuple)."""

    def __str__(self) -> str:
        return spec.write(self.name or type(self).__name__, self)
