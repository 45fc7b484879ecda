"""The edges of scoring that no criterion should have to think about.

Every formula runs on a **replica**: a private copy of the network, its weights masked, batch norm in the mode asked for
and dropout off. The copy shares the caller's memory until somebody writes to it, so it costs nothing where nobody does,
and whatever a formula does to it, the caller's model is untouched. Random states are put back, and the scores are
checked before they leave.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pai_bench.errors import CriterionError, UserError
from pai_bench.pruning.criterion import (
    SCORING,
    Batch,
    BatchLike,
    BatchNormMode,
    Criterion,
    Loss,
    Prunable,
    Scores,
    Scoring,
    as_batch,
    prunable_parameters,
)
from pai_bench.pruning.redraw import Draw, redrawn
from pai_bench.randomness import random_state

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

Formula = Callable[[Any, nn.Module, Batch], Scores]


def guarded(formula: Formula) -> Formula:
    """The public `score` of a criterion, around the `formula` that its class defines."""

    @functools.wraps(formula)
    def score(self: Criterion, model: nn.Module, batch: BatchLike, *, loss: Loss | None = None) -> Scores:
        outer, batch = SCORING.get(model), as_batch(batch, loss)
        if outer is None:
            return score_masked(self, model, batch)
        if outer.criterion is self:  # super().score(...), on the replica that self was given
            return formula(self, model, batch)
        return score_masked(self, model, batch, outer.mask, seed=outer.seed)

    score.__dict__["formula"] = formula
    return score


def score_masked(
    criterion: Criterion,
    model: nn.Module,
    batch: BatchLike,
    mask: Mapping[str, Tensor] | None = None,
    *,
    seed: int = 0,
) -> Scores:
    """The scores of `criterion` for `model` under `mask`, without side effects.

    `seed` serves criteria with randomness of their own, unless their option ``seed`` says otherwise.
    """
    return Scorer(criterion, model, seed=seed).score(as_batch(batch), mask)


class Scorer:
    """Scores one network by one criterion, under one mask after the other, on one replica.

    `only` says which parameters are scored (`prunable_parameters`), and `draw` how the network is drawn again
    (`pai_bench.pruning.redraw`).
    """

    def __init__(
        self,
        criterion: Criterion,
        model: nn.Module,
        *,
        seed: int = 0,
        only: Prunable | None = None,
        draw: Draw | None = None,
    ) -> None:
        self.criterion, self.label = criterion, criterion.name or type(criterion).__name__
        seed = seed if criterion.seed is None else criterion.seed
        names = list(prunable_parameters(model, biases=criterion.biases, only=only))
        if criterion.score_init == "redrawn":
            model = redrawn(model, seed, draw)
        with edges(seed):
            self.replica = replica(model, names, criterion.bn)
            self.parameters = {name: self.replica.get_parameter(name) for name in names}
            self._scoring = SCORING[self.replica] = Scoring(criterion, seed, self.parameters)
            criterion.prepare(self.replica)
        self._scoring.dense = {name: shared(parameter) for name, parameter in self.parameters.items()}
        self._buffers = {name: shared(buffer) for name, buffer in self.replica.named_buffers()}

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of what is scored, by name."""
        return {name: parameter.shape for name, parameter in self.parameters.items()}

    def score(self, batch: Batch, mask: Mapping[str, Tensor] | None = None) -> Scores:
        """The scores under `mask`."""
        formula: Formula = vars(type(self.criterion).score)["formula"]
        self._lay(mask)
        before = fingerprints(self.replica)
        with edges(self._scoring.seed):
            # copies, since a network may begin with an operation in place
            own = dataclasses.replace(batch, inputs=batch.inputs.clone(), targets=batch.targets.clone())
            try:
                scores = formula(self.criterion, self.replica, own)
            except UserError as error:
                raise error if str(error).startswith(self.label) else type(error)(f"{self.label}: {error}") from error
        self.replica.zero_grad(set_to_none=True)
        self._refuse_ignored(batch)
        found = checked(scores, self.parameters, self.label, normalised=self.criterion.normalised)
        if (name := self._changed(before)) is not None:
            raise CriterionError(
                f"{self.label} changes the model while it scores it, in {name!r}; "
                "a criterion may change its copy of the network in `prepare`, and only there"
            )
        return found

    def _refuse_ignored(self, batch: Batch) -> None:
        """Refuse options that a formula with gradients of its own making does not know of."""
        if self._scoring.consulted or not self.criterion.uses_data:
            return
        summed = self.criterion.accumulate == "score" and batch.batches > 1
        for option, given in (("micro_batch", self.criterion.micro_batch), ("accumulate=score", summed)):
            if given:
                raise CriterionError(f"{self.label} ignores {option}: it does not take its gradients by saliencies()")

    def _changed(self, before: Mapping[str, Any]) -> str | None:
        """The first parameter or module that a formula has changed."""
        for name, state in fingerprints(self.replica).items():
            if before.get(name) != state:
                return name
        if self._scoring.mask is None:  # a write through ``.data`` leaves no trace but the value
            for name, dense in self._scoring.dense.items():
                weight = self.parameters[name]
                if not still_shared(weight) and not torch.equal(weight, dense):
                    return name
        return None

    @torch.no_grad()
    def _lay(self, mask: Mapping[str, Tensor] | None) -> None:
        """Lay `mask` on the replica, and put back the buffers that a forward pass has changed."""
        if mask is not None or self._scoring.mask is not None:
            for name, dense in self._scoring.dense.items():
                weight = self.parameters[name].data
                if mask is None:
                    weight.copy_(dense)
                else:
                    torch.mul(dense, mask[name], out=weight)
        self._scoring.mask = mask
        for name, buffer in self.replica.named_buffers():
            if name in self._buffers and buffer._version:
                buffer.data.copy_(self._buffers[name])


@contextmanager
def edges(seed: int) -> Iterator[None]:
    """A block that a formula runs in: seeded, gradients on, and all of it put back afterwards."""
    with random_state(seed), torch.inference_mode(False), torch.enable_grad():
        yield


def shared(tensor: Tensor) -> Tensor:
    """A copy of `tensor` that shares its memory until one of the two is written to."""
    try:
        return torch._lazy_clone(tensor.detach())
    except RuntimeError:  # memory that torch has not allocated itself
        return tensor.detach().clone()


def still_shared(tensor: Tensor) -> bool:
    """Whether nobody has written to what `shared` gave."""
    return bool(torch._C._is_cow_tensor(tensor))  # type: ignore[attr-defined]  # not among torch's annotations


def replica(model: nn.Module, names: list[str], bn: BatchNormMode) -> nn.Module:
    """A private copy of `model` for scoring, in which the parameters `names`, and no others, get gradients."""
    outer = SCORING.get(model)
    dense = {} if outer is None else outer.dense  # the mask is laid by whoever asked for the copy
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(shared(dense.get(name, parameter)), requires_grad=False)
        for name, parameter in model.named_parameters()
        if type(parameter) is nn.Parameter
    }
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:  # whatever a module's own __deepcopy__ raises
        raise UserError(f"{type(model).__name__} cannot be copied for scoring: {error}") from error
    twin.requires_grad_(False)
    for name in names:
        twin.get_parameter(name).requires_grad_(True)
    for module in twin.modules():
        module.training = bn == "train" and isinstance(module, BATCH_NORMS)
    return twin


def fingerprints(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """What shows that a parameter or module was changed, by name: versions, flags, and the number of hooks."""
    found: dict[str, tuple[Any, ...]] = {
        name: (id(p), p._version, p.requires_grad) for name, p in model.named_parameters()
    }
    for name, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        found[name or type(model).__name__] = (module.training, *map(len, hooks))
    return found


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The dense weights of the prunable parameters, also at positions that the current mask removes."""
    scoring = SCORING.get(model)
    dense = prunable_parameters(model) if scoring is None else scoring.dense
    return {name: shared(weight) for name, weight in dense.items()}


def checked(scores: Scores, prunable: Mapping[str, nn.Parameter], label: str, *, normalised: bool = False) -> Scores:
    """`scores` in the model's order, divided by their sum if asked, or an error that names criterion and layer."""
    if not isinstance(scores, Mapping):
        raise CriterionError(f"{label} returned {type(scores).__name__}, not a dict of tensors by parameter name")
    for name in scores:
        if name not in prunable:
            raise CriterionError(f"{label} scored {name!r}, which is not a prunable parameter of this model")
    total = 0.0
    for name, parameter in prunable.items():
        if (score := scores.get(name)) is None:
            raise CriterionError(f"{label} gave no score for {name!r}")
        if not isinstance(score, Tensor):
            raise CriterionError(f"{label} scored {name!r} with {type(score).__name__}, not a tensor")
        if score.shape != parameter.shape or score.device != parameter.device:
            got, want = (f"shape {tuple(t.shape)} on {t.device}" for t in (score, parameter))
            raise CriterionError(f"{label} scored {name!r} with {got}; the parameter has {want}")
        if not score.is_floating_point():
            raise CriterionError(f"{label} scored {name!r} with dtype {score.dtype}, which is not a float")
        total += (part := float(score.detach().sum(dtype=torch.promote_types(score.dtype, torch.float32))))
        # one pass over the scores: a finite sum has finite terms
        if not math.isfinite(part) and not bool(score.isfinite().all()):
            kind = "NaN" if bool(score.isnan().any()) else "infinite"
            raise CriterionError(f"{label} gave {kind} scores in {name!r}; nothing can be ranked by them")
    found = {name: scores[name].detach() for name in prunable}
    if normalised and total > 0:  # in half precision, most of the quotients would be zero
        kinds = {name: torch.promote_types(score.dtype, torch.float32) for name, score in found.items()}
        return {name: score.to(kinds[name]).div_(total) for name, score in found.items()}
    return found
