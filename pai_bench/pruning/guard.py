"""The edges of scoring that no criterion should have to think about.

Every formula runs on a **replica**: a private copy of the network, its weights masked, batch norm in the mode asked for
and dropout off. The copy shares the caller's memory until somebody writes to it, so it costs nothing where nobody does,
and whatever a formula does to it, the caller's model is untouched. Random states are put back, and the scores are
checked before they leave.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pai_bench.pruning import transfers
from pai_bench.pruning.criterion import (
    SCORING,
    Batch,
    BatchLike,
    Criterion,
    Loss,
    Prunable,
    Scores,
    Scoring,
    as_batch,
    prunable_parameters,
)
from pai_bench.pruning.dropout import is_plain, steady
from pai_bench.pruning.redraw import Draw, drawn_by, redrawn
from pai_bench.pruning.replica import fingerprints, kinds_of, parts, replica, shared, still_shared, wide, widen
from pai_bench.pruning.selection import positions
from pai_bench.pruning.wrappers import innermost, seen_through
from pai_bench.support.errors import CriterionError, UserError
from pai_bench.support.precision import reproducible
from pai_bench.support.randomness import random_state

Formula = Callable[[Any, nn.Module, Batch], Scores]


def guarded(formula: Formula) -> Formula:
    """The public `score` of a criterion, around the `formula` that its class defines."""

    @functools.wraps(formula)
    def score(self: Criterion, model: nn.Module, batch: BatchLike, *, loss: Loss | None = None) -> Scores:
        model = innermost(model)
        outer, batch = SCORING.get(model), as_batch(batch, loss)
        if outer is None:
            return score_masked(self, model, batch)
        if outer.criterion is self:  # super().score(...), on the replica that self was given
            return formula(self, model, batch)
        outer.loss_taken |= self.loss == outer.criterion.loss
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
    from pai_bench.pruning.prunable import scored

    given, only = as_batch(batch), None
    if SCORING.get(model) is None:  # a replica says itself what is scored
        only = scored(model, given.inputs[:1], biases=criterion.biases)
    with Scorer(criterion, model, seed=seed, only=only) as scorer:
        return scorer.score(given, mask)


class Scorer:
    """Scores one network by one criterion, under one mask after the other, on one replica.

    A context manager: at its end the replica gives back what it shares with the caller's network, also after an error.
    `only` says which parameters are scored (`prunable_parameters`), and `draw` how the network is drawn again
    (`pai_bench.pruning.redraw`). Without `returns`, no mask keeps what the one before it removed; what is removed is
    then scored as the zero that it is, which saves going over the dense weights at every step. Without `keep`, the
    scores are good until the next ones are asked for, which may be written into the same memory.
    """

    def __init__(
        self,
        criterion: Criterion,
        model: nn.Module,
        *,
        seed: int = 0,
        only: Prunable | None = None,
        draw: Draw | None = None,
        returns: bool = True,
        keep: bool = True,
    ) -> None:
        self.criterion, self.label, self._keep = criterion, criterion.name or type(criterion).__name__, keep
        seed = seed if criterion.seed is None else criterion.seed
        with self._named(model):
            model = innermost(model)
            found = prunable_parameters(model, biases=criterion.biases, only=only)
            names = list(found)
        self._device = next(iter(found.values())).device
        prepared = type(criterion).prepare is not Criterion.prepare
        # torch's own layers draw nothing when they are copied, and to put random states back takes a twentieth of a
        # small score
        quiet = not prepared and criterion.score_init == "trained" and all(map(is_plain, model.modules()))
        with torch.inference_mode(False) if quiet else edges(seed, self._device), self._named(model):
            if criterion.score_init == "redrawn":
                model = redrawn(model, seed, draw)
            elif criterion.score_init != "trained":
                model = drawn_by(model, seed, criterion.score_init)
            self.replica = replica(model, names, criterion.bn if criterion.uses_data else "eval")
            changed = widen(self.replica, criterion.score_dtype) or prepared
            self.parameters = {name: self.replica.get_parameter(name) for name in names}
            self._scoring = SCORING[self.replica] = Scoring(criterion, seed, self.parameters)
            try:
                criterion.prepare(self.replica)
            except BaseException:
                self._release()
                raise
            if changed:  # to look takes a hundredth of a score
                more = kinds_of(self.replica) - kinds_of(model)
                steady(self.replica, max(more, key=lambda kind: kind.itemsize) if more else None)
        self._scoring.dense = {name: shared(parameter) for name, parameter in self.parameters.items()}
        self._scoring.returns = returns
        self._others = {n: shared(p) for n, p in self.replica.named_parameters() if n not in self.parameters}
        self._buffers = {name: shared(buffer) for name, buffer in self.replica.named_buffers()}

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_error: object) -> None:
        self._release()
        self._scoring.dense, self._others, self._buffers = {}, {}, {}

    def _release(self) -> None:
        # a copy that is kept alive, by a cycle of references or a traceback, would make the caller's next write move
        # its weights to another place, from under the feet of whoever looks at their memory
        for _, part in parts(self.replica):
            if isinstance(part, Tensor) and part.layout is torch.strided:  # others share nothing
                part.data = part.data.new_empty(0)
        self._scoring.spare.give({})

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
        """Shapes of what is scored, by name."""
        return {name: parameter.shape for name, parameter in self.parameters.items()}

    def score(self, batch: Batch, mask: Mapping[str, Tensor] | None = None) -> Scores:
        """The scores under `mask`."""
        formula: Formula = vars(type(self.criterion).score)["formula"]
        with torch.inference_mode(False):
            self._lay(mask)
        before = fingerprints(self.replica)
        with edges(self._scoring.seed, self._device), self._named(self.replica):
            # copies, since a network may begin with an operation in place
            inputs = batch.inputs.to(wide(batch.inputs, self.criterion.score_dtype), copy=True)
            own = dataclasses.replace(batch, inputs=inputs, targets=batch.targets.clone())
            scores = formula(self.criterion, self.replica, own)
        self.replica.zero_grad(set_to_none=True)
        self._refuse_ignored(batch)
        found, sums = checked(scores, self.parameters, self.label)
        if self.criterion.normalised:
            found = divided_by_their_sum(found, mask, sums)
        if (name := self._changed(before)) is not None:
            raise CriterionError(
                f"{self.label} changes the model while it scores it, in {name!r}, or the network does so itself; "
                "a criterion may change its copy of the network in `prepare`, and only there"
            )
        if not self._keep and formula.__dict__.get("overwritten", False):
            self._scoring.spare.give({id(self.parameters[name]): score for name, score in found.items()})
        return found

    def _refuse_ignored(self, batch: Batch) -> None:
        """Refuse options that a formula with gradients of its own making does not know of."""
        if self.criterion.loss == "nll" and not self._scoring.loss_taken:
            raise CriterionError(
                f"{self.label} ignores loss=nll: it does not take the loss by saliencies() or gradients()"
            )
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
        # a write through ``.data`` leaves no trace but the value
        expected = self._others if self._scoring.mask is not None else self._others | dict(self._scoring.dense)
        values = {name: (self.replica.get_parameter(name), value) for name, value in expected.items()}
        written = {name: pair for name, pair in values.items() if not still_shared(pair[0])}
        same = zip(written, transfers.equal(written.values()), strict=True)
        return next((name for name, unchanged in same if not unchanged), None)

    @torch.no_grad()
    def _lay(self, mask: Mapping[str, Tensor] | None) -> None:
        """Lay `mask` on the replica, and put back the buffers that a forward pass has changed."""
        if mask is not None or self._scoring.mask is not None:
            for name, dense in self._scoring.dense.items():
                weight = self.parameters[name]
                keep = True if mask is None else mask[name]
                if still_shared(weight):  # writing there would copy it first
                    weight.data = dense * keep
                elif self._scoring.returns or mask is None:
                    torch.mul(dense, keep, out=weight.data)
                else:
                    remove(weight.data, mask[name], None if self._scoring.mask is None else self._scoring.mask[name])
        self._scoring.mask = mask
        for name, buffer in self.replica.named_buffers():
            if name in self._buffers and not still_shared(buffer):
                before, (place, _, key) = self._buffers[name], name.rpartition(".")
                if buffer.grad_fn is None and buffer.shape == before.shape:
                    buffer.data.copy_(before)
                else:  # the pass has put another in its place, which knows of the graph of that pass, say
                    self.replica.get_submodule(place)._buffers[key] = before.clone()


def overwritten(formula: Callable[..., Scores]) -> Callable[..., Scores]:
    """Mark a formula whose scores, once the next are asked for, may be overwritten by them (`Scorer`, `spare`)."""
    formula.__dict__["overwritten"] = True
    return formula


@contextmanager
def edges(seed: int, device: torch.device) -> Iterator[None]:
    """A block that a formula runs in: seeded, gradients on, and all of it put back afterwards.

    Scores are in the precision of the weights, of which nothing is rounded away, and the same on the same device.
    """
    with ExitStack() as stack:
        stack.enter_context(random_state(seed))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(reproducible(device))
        stack.enter_context(seen_through())
        for place in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(place, enabled=False))
        yield


def remove(weight: Tensor, keep: Tensor, kept: Tensor | None) -> None:
    """Set to zero what `keep` removes of `weight`, which is zero already where `kept`, the mask before, removes."""
    if kept is None or not transfers.on_host(weight) or not weight.is_contiguous():
        weight.mul_(keep)
    else:  # a schedule of many cuts removes few weights in each
        weight.view(-1)[positions((keep ^ kept).reshape(-1))] = 0


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The dense weights of the prunable parameters, also at positions that the current mask removes."""
    if (scoring := SCORING.get(model)) is not None:
        return {name: shared(weight) for name, weight in scoring.dense.items()}
    return {name: weight.detach().clone() for name, weight in prunable_parameters(model).items()}


def checked(scores: Scores, prunable: Mapping[str, nn.Parameter], label: str) -> tuple[Scores, list[float]]:
    """`scores` in the model's order, in memory of their own, or an error that names the criterion and the layer.

    And the sum of each.
    """
    if not isinstance(scores, Mapping):
        raise CriterionError(f"{label} returned {type(scores).__name__}, not a dict of tensors by parameter name")
    for name in scores:
        if name not in prunable:
            raise CriterionError(f"{label} scored {name!r}, which is not a prunable parameter of this model")
    found: Scores = {}
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
        twice = any(score.data_ptr() == other.data_ptr() for other in found.values() if other.numel())
        found[name] = score.detach().clone() if still_shared(score) or twice else score.detach()
    sums = transfers.read_scalars(map(total, found.values()))
    for (name, score), whole in zip(found.items(), sums, strict=True):
        # one pass over the scores: a finite sum has finite terms
        if not math.isfinite(whole) and not bool(score.isfinite().all()):
            kind = "NaN" if bool(score.isnan().any()) else "infinite"
            raise CriterionError(f"{label} gave {kind} scores in {name!r}; nothing can be ranked by them")
    return found, sums


def total(score: Tensor) -> Tensor:
    """The sum of a score, in single precision at least."""
    return score.sum(dtype=torch.promote_types(score.dtype, torch.float32))


def divided_by_their_sum(scores: Scores, mask: Mapping[str, Tensor] | None, sums: list[float]) -> Scores:
    """`scores`, in place, over the sum of those which `mask` keeps, or of all without one: the sum of their `sums`."""
    if mask is not None:  # one layer at a time, which takes memory for one
        sums = transfers.read_scalars(total(score * mask[name]) for name, score in scores.items())
    if not math.isfinite(whole := sum(sums)):  # a sum of finite terms
        kept = (score if mask is None else score * mask[name] for name, score in scores.items())
        whole = sum(transfers.read_scalars(score.to(torch.float64).sum() for score in kept))
    if whole <= 0:
        return scores
    # in half precision, most of the quotients would be zero
    kinds = {name: torch.promote_types(score.dtype, torch.float32) for name, score in scores.items()}
    return {name: score.to(kinds[name]).div_(whole) for name, score in scores.items()}
