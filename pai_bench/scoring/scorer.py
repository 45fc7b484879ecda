"""Isolated scoring: private copies, random states, masks, and checks of the scores.

A formula runs on a private copy of the network with masked weights, batch norm in the mode of the criterion's option,
and dropout off (`pai_bench.scoring.masked_model`). The copy shares the memory of the caller's model until one of them
is written to, so that the caller's model cannot change.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from pai_bench.masks.application import narrow_
from pai_bench.networks.dropout import is_plain, run_in_scoring_mode
from pai_bench.networks.layers import Prunable, prunable_parameters
from pai_bench.networks.private_copy import (
    convert_for_scoring,
    fingerprints,
    float_dtypes,
    mode_and_hooks,
    parts,
    private_copy,
    scoring_dtype,
    shared,
    still_shared,
)
from pai_bench.networks.wrappers import innermost, without_compilation
from pai_bench.scoring.batch import Batch, Scores
from pai_bench.scoring.masked_model import MaskedModel
from pai_bench.scoring.options import CriterionOptions
from pai_bench.scoring.redraw import Draw, initialised_by, redrawn
from pai_bench.support import transfers
from pai_bench.support.errors import CriterionError, UserError
from pai_bench.support.precision import reproducible
from pai_bench.support.randomness import random_state
from pai_bench.support.torch_internals import own_buffers

Formula = Callable[[Any, MaskedModel, Batch], Scores]
"""The `score` that a criterion's class defines."""


class Scorer:
    """Scores one network by one criterion, under one mask after the other, on one private copy.

    A context manager, which releases the memory shared with the caller's network at its end, also after an error.

    * `seed`: of the criterion's random numbers, unless its option ``seed`` is set.
    * `only`: which parameters are scored, as of `prunable_parameters`.
    * `draw`: how the network is drawn again for ``score_init=redrawn`` (`pai_bench.scoring.redraw`).
    * `returns`: whether a mask may keep what the one before it removed. If not, removed weights are scored as zeros,
      which saves a pass over the dense weights in each cut.
    * `weights`: parameter name -> tensor, scored in place of the network's own.

    Raises `UserError` for a network that cannot be copied or has no prunable weights.
    """

    def __init__(
        self,
        criterion: CriterionOptions,
        model: nn.Module,
        *,
        seed: int = 0,
        only: Prunable | None = None,
        draw: Draw | None = None,
        returns: bool = True,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.criterion, self.label = criterion, criterion.name or type(criterion).__name__
        seed = seed if criterion.seed is None else criterion.seed
        with self._named(model):
            model = innermost(model)
            parameters = prunable_parameters(model, biases=criterion.biases, only=only)
            names = list(parameters)
        self._device = next(iter(parameters.values())).device
        prepared = type(criterion).prepare is not CriterionOptions.prepare
        # torch's own layers draw nothing when they are copied; restoring random states takes 5 % of a small score
        quiet = not prepared and criterion.score_init == "trained" and all(map(is_plain, model.modules()))
        with torch.inference_mode(False) if quiet else scoring_context(seed, self._device), self._named(model):
            if criterion.score_init == "redrawn":
                model, weights = redrawn(model, seed, draw), None
            elif criterion.score_init != "trained":
                model, weights = initialised_by(model, seed, criterion.score_init), None
            network = private_copy(model, names, criterion.bn if criterion.uses_data else "eval", weights)
            changed = convert_for_scoring(network, criterion.score_dtype) or prepared
            self.model = MaskedModel(network, names, criterion, seed)
            try:
                criterion.prepare(network)
            except BaseException:
                self._release()
                raise
            if changed:  # the comparison takes 1 % of a score
                added = float_dtypes(network) - float_dtypes(model)
                run_in_scoring_mode(network, max(added, key=lambda dtype: dtype.itemsize) if added else None)
        self.model.dense = {name: shared(parameter) for name, parameter in self.model.prunable.items()}
        self.model.returns = returns
        self._others = {n: shared(p) for n, p in network.named_parameters() if n not in self.model.prunable}
        self._buffers = {name: shared(buffer) for name, buffer in network.named_buffers()}

    @classmethod
    def within(cls, model: MaskedModel, criterion: CriterionOptions, only: Prunable | None = None) -> "Scorer":
        """A scorer of the network that a formula sees, by another criterion."""
        if model.options.loss == criterion.loss:
            model.honoured.add("loss")
        names = list(model.prunable) if only is None else only
        return cls(criterion, model.network, seed=model.seed, only=names, weights=model.dense)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._release()
        self.model.dense, self._others, self._buffers = {}, {}, {}

    def _release(self) -> None:
        # if a copy stayed alive, by a cycle of references or a traceback, the caller's next write would move its
        # weights to other memory, while others may hold views of the present one
        for _, part in parts(self.model.network):
            if isinstance(part, Tensor) and part.layout is torch.strided:  # others share nothing
                part.data = part.data.new_empty(0)

    @contextmanager
    def _named(self, model: nn.Module) -> Iterator[None]:
        """A block whose errors name the criterion."""
        try:
            yield
        except UserError as error:
            raise error if str(error).startswith(self.label) else type(error)(f"{self.label}: {error}") from error
        except Exception as error:
            error.add_note(f"while {self.label} scored {type(model).__name__}")
            raise

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the scored parameters, by name."""
        return {name: parameter.shape for name, parameter in self.model.prunable.items()}

    def score(self, batch: Batch, mask: Mapping[str, Tensor] | None = None) -> Scores:
        """The scores of the network under `mask` (parameter name -> bool tensor), without side effects.

        Raises `CriterionError` for scores that cannot be ranked, a formula that changes the model, and options of the
        criterion that its formula ignores; `UserError` for a batch that does not fit the network.
        """
        scores, sums = checked(self.run(batch, mask), self.model.prunable, self.label)
        normalised = self.criterion.normalised and not self.model.signed
        return divided_by_their_sum(scores, mask, sums) if normalised else scores

    def run(self, batch: Batch, mask: Mapping[str, Tensor] | None = None) -> Any:
        """What the formula returns under `mask`, unchecked; `CriterionError` for one that changes the model."""
        if self.criterion.structured and self.model.groups is None:
            raise CriterionError(f"{self.label} scores whole units, not single weights, which are asked for here")
        formula: Formula = type(self.criterion)._formula_behind_score
        with torch.inference_mode(False):
            self._apply_mask(mask)
        before = self._fingerprints()
        with scoring_context(self.model.seed, self._device), self._named(self.model.network):
            # copies, since a network may begin with an in-place operation
            inputs = batch.inputs.to(scoring_dtype(batch.inputs, self.criterion.score_dtype), copy=True)
            own = dataclasses.replace(batch, inputs=inputs, targets=batch.targets.clone())
            scores = formula(self.criterion, self.model, own)
        self.model.zero_grad(set_to_none=True)
        self._refuse_ignored(batch)
        if (name := self._changed(before)) is not None:
            raise CriterionError(
                f"{self.label} changes the model while it scores it, in {name!r}, or the network does so itself; "
                "a criterion may change its copy of the network in `prepare`, and only there"
            )
        return scores

    def _refuse_ignored(self, batch: Batch) -> None:
        """Raise for options that a formula ignores, since it computes its own gradients."""
        honoured, options = self.model.honoured, self.criterion
        if options.loss == "nll" and "loss" not in honoured:
            raise CriterionError(
                f"{self.label} ignores loss=nll: it does not take the loss by saliencies() or gradients()"
            )
        summed = options.accumulate == "score" and batch.batches > 1
        for name, option, is_set in (
            ("micro_batch", "micro_batch", options.micro_batch is not None),
            ("accumulate", "accumulate=score", summed),
        ):
            if is_set and options.uses_data and name not in honoured:
                raise CriterionError(f"{self.label} ignores {option}: it does not take its gradients by saliencies()")

    def _fingerprints(self) -> dict[str, tuple[Any, ...]]:
        """Values that show a change of the copy, or of the `MaskedModel` around it."""
        values = fingerprints(self.model.network)
        values[f"{type(self.model.network).__name__} as it is called"] = mode_and_hooks(self.model)
        return values

    def _changed(self, before: Mapping[str, Any]) -> str | None:
        """The name of the first parameter or module that a formula has changed; None if there is none."""
        after = self._fingerprints()
        for name in {**after, **before}:
            if before.get(name) != after.get(name):
                return name
        # a write through ``.data`` shows in the value only
        expected = self._others if self.model.mask is not None else self._others | dict(self.model.dense)
        parameters = self.model.network.named_parameters()
        written = {
            name: (now, expected[name]) for name, now in parameters if name in expected and not still_shared(now)
        }
        comparison = zip(written, transfers.equal(written.values()), strict=True)
        return next((name for name, unchanged in comparison if not unchanged), None)

    @torch.no_grad()
    def _apply_mask(self, mask: Mapping[str, Tensor] | None) -> None:
        """Apply `mask` to the copy, and restore the buffers that a forward pass has changed."""
        model = self.model
        if mask is not None or model.mask is not None:
            for name, dense in model.dense.items():
                weight = model.prunable[name]
                keep = True if mask is None else mask[name]
                if still_shared(weight):  # writing there would copy it first
                    weight.data = dense * keep
                elif model.returns or mask is None:
                    torch.mul(dense, keep, out=weight.data)
                else:
                    narrow_(weight.data, mask[name], None if model.mask is None else model.mask[name])
        model.mask = mask
        for name, buffer in model.network.named_buffers():
            if name in self._buffers and not still_shared(buffer):
                before, (place, _, key) = self._buffers[name], name.rpartition(".")
                if buffer.grad_fn is None and buffer.shape == before.shape:
                    buffer.data.copy_(before)
                else:  # the pass has replaced it, by one that belongs to the graph of that pass, say
                    own_buffers(model.network.get_submodule(place))[key] = before.clone()


@contextmanager
def scoring_context(seed: int, device: torch.device) -> Iterator[None]:
    """A block in which a formula runs: seeded, with gradients, deterministic, without autocast or TF32.

    All of it is restored at the end.
    """
    with ExitStack() as stack:
        stack.enter_context(random_state(seed))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(reproducible(device))
        stack.enter_context(without_compilation())
        for place in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(place, enabled=False))
        yield


def checked(scores: Scores, prunable: Mapping[str, nn.Parameter], label: str) -> tuple[Scores, list[float]]:
    """`scores` in the model's order, each in its own memory, and the sum of each.

    Raises `CriterionError`, naming criterion and layer, for scores that cannot be ranked.
    """
    if not isinstance(scores, Mapping):
        raise CriterionError(f"{label} returned {type(scores).__name__}, not a dict of tensors by parameter name")
    for name in scores:
        if name not in prunable:
            raise CriterionError(f"{label} scored {name!r}, which is not a prunable parameter of this model")
    result: Scores = {}
    for name, parameter in prunable.items():
        if (score := scores.get(name)) is None:
            raise CriterionError(f"{label} gave no score for {name!r}")
        if not isinstance(score, Tensor):
            raise CriterionError(f"{label} scored {name!r} with {type(score).__name__}, not a tensor")
        if score.shape != parameter.shape or score.device != parameter.device:
            got, want = (f"shape {tuple(t.shape)} on {t.device}" for t in (score, parameter))
            raise CriterionError(f"{label} scored {name!r} with {got}; the parameter has {want}")
        if score.layout is not torch.strided:
            raise CriterionError(f"{label} scored {name!r} with a tensor of layout {score.layout}, not a dense one")
        if not score.is_floating_point():
            raise CriterionError(f"{label} scored {name!r} with dtype {score.dtype}, which is not a float")
        shares = any(score.data_ptr() == other.data_ptr() for other in result.values() if other.numel())
        result[name] = score.detach().clone() if still_shared(score) or shares else score.detach()
    sums = transfers.read_scalars(map(total, result.values()))
    for (name, score), whole in zip(result.items(), sums, strict=True):
        # one pass over the scores: a finite sum has finite terms
        if not math.isfinite(whole) and not bool(score.isfinite().all()):
            value = "NaN" if bool(score.isnan().any()) else "infinite"
            raise CriterionError(f"{label} gave {value} scores in {name!r}; nothing can be ranked by them")
    return result, sums


def total(score: Tensor) -> Tensor:
    """The sum of a score, in float32 or float64."""
    return score.sum(dtype=torch.promote_types(score.dtype, torch.float32))


def divided_by_their_sum(scores: Scores, mask: Mapping[str, Tensor] | None, sums: list[float]) -> Scores:
    """`scores` divided, in place, by the sum of those that `mask` keeps, or of all; `sums` are those of each layer."""
    if mask is not None:  # one layer at a time, to save memory
        sums = transfers.read_scalars(total(score * mask[name]) for name, score in scores.items())
    if overflows := not math.isfinite(whole := sum(sums)):  # a sum of finite terms
        kept = (score if mask is None else score * mask[name] for name, score in scores.items())
        whole = sum(transfers.read_scalars(score.to(torch.float64).sum() for score in kept))
    if whole <= 0:
        return scores
    # in half precision, most of the quotients would be zero; and all of them by a sum beyond the range of float32
    dtypes = {name: torch.promote_types(score.dtype, torch.float32) for name, score in scores.items()}
    return {
        name: score.to(torch.float64 if overflows else dtypes[name]).div_(whole).to(dtypes[name])
        for name, score in scores.items()
    }
