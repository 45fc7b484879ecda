"""What no criterion should have to think about: isolation, random states, masks, and the check of what comes back.

Every formula runs on a private copy of the network, its weights masked, batch norm in the mode asked for and dropout
off (`pai_bench.scoring.masked_model`). The copy shares the caller's memory until somebody writes to it, so it costs
nothing where nobody does, and whatever a formula does to it, the caller's model is untouched.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pai_bench.masks.application import narrow_
from pai_bench.networks.dropout import is_plain, steady
from pai_bench.networks.layers import Prunable, prunable_parameters
from pai_bench.networks.private_copy import (
    fingerprints,
    kinds_of,
    mode_and_hooks,
    parts,
    private_copy,
    shared,
    still_shared,
    wide,
    widen,
)
from pai_bench.networks.wrappers import innermost, seen_through
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
"""What a criterion's class defines as its `score`."""


class Scorer:
    """Scores one network by one criterion, under one mask after the other, on one private copy.

    A context manager: at its end the copy gives back what it shares with the caller's network, also after an error.
    `only` says which parameters are scored (`prunable_parameters`), and `draw` how the network is drawn again
    (`pai_bench.scoring.redraw`). Without `returns`, no mask keeps what the one before it removed; what is removed is
    then scored as the zero that it is, which saves going over the dense weights at every step. `weights` are scored in
    place of the network's own.
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
            found = prunable_parameters(model, biases=criterion.biases, only=only)
            names = list(found)
        self._device = next(iter(found.values())).device
        prepared = type(criterion).prepare is not CriterionOptions.prepare
        # torch's own layers draw nothing when they are copied, and to put random states back takes a twentieth of a
        # small score
        quiet = not prepared and criterion.score_init == "trained" and all(map(is_plain, model.modules()))
        with torch.inference_mode(False) if quiet else scoring_context(seed, self._device), self._named(model):
            if criterion.score_init == "redrawn":
                model, weights = redrawn(model, seed, draw), None
            elif criterion.score_init != "trained":
                model, weights = initialised_by(model, seed, criterion.score_init), None
            network = private_copy(model, names, criterion.bn if criterion.uses_data else "eval", weights)
            changed = widen(network, criterion.score_dtype) or prepared
            self.model = MaskedModel(network, names, criterion, seed)
            try:
                criterion.prepare(network)
            except BaseException:
                self._release()
                raise
            if changed:  # to look takes a hundredth of a score
                more = kinds_of(network) - kinds_of(model)
                steady(network, max(more, key=lambda kind: kind.itemsize) if more else None)
        self.model.dense = {name: shared(parameter) for name, parameter in self.model.prunable.items()}
        self.model.returns = returns
        self._others = {n: shared(p) for n, p in network.named_parameters() if n not in self.model.prunable}
        self._buffers = {name: shared(buffer) for name, buffer in network.named_buffers()}

    @classmethod
    def within(cls, model: MaskedModel, criterion: CriterionOptions) -> "Scorer":
        """A scorer by another criterion of the network that a formula sees."""
        if model.options.loss == criterion.loss:
            model.honoured.add("loss")
        return cls(criterion, model.network, seed=model.seed, only=list(model.prunable), weights=model.dense)

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_error: object) -> None:
        self._release()
        self.model.dense, self._others, self._buffers = {}, {}, {}

    def _release(self) -> None:
        # a copy that is kept alive, by a cycle of references or a traceback, would make the caller's next write move
        # its weights to another place, from under the feet of whoever looks at their memory
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
        """Shapes of what is scored, by name."""
        return {name: parameter.shape for name, parameter in self.model.prunable.items()}

    def score(self, batch: Batch, mask: Mapping[str, Tensor] | None = None) -> Scores:
        """The scores under `mask`."""
        formula: Formula = type(self.criterion)._formula_behind_score
        with torch.inference_mode(False):
            self._apply_mask(mask)
        before = self._fingerprints()
        with scoring_context(self.model.seed, self._device), self._named(self.model.network):
            # copies, since a network may begin with an operation in place
            inputs = batch.inputs.to(wide(batch.inputs, self.criterion.score_dtype), copy=True)
            own = dataclasses.replace(batch, inputs=inputs, targets=batch.targets.clone())
            scores = formula(self.criterion, self.model, own)
        self.model.zero_grad(set_to_none=True)
        self._refuse_ignored(batch)
        found, sums = checked(scores, self.model.prunable, self.label)
        if self.criterion.normalised:
            found = divided_by_their_sum(found, mask, sums)
        if (name := self._changed(before)) is not None:
            raise CriterionError(
                f"{self.label} changes the model while it scores it, in {name!r}, or the network does so itself; "
                "a criterion may change its copy of the network in `prepare`, and only there"
            )
        return found

    def _refuse_ignored(self, batch: Batch) -> None:
        """Refuse options that a formula with gradients of its own making does not know of."""
        honoured, options = self.model.honoured, self.criterion
        if options.loss == "nll" and "loss" not in honoured:
            raise CriterionError(
                f"{self.label} ignores loss=nll: it does not take the loss by saliencies() or gradients()"
            )
        summed = options.accumulate == "score" and batch.batches > 1
        for name, option, given in (
            ("micro_batch", "micro_batch", options.micro_batch is not None),
            ("accumulate", "accumulate=score", summed),
        ):
            if given and options.uses_data and name not in honoured:
                raise CriterionError(f"{self.label} ignores {option}: it does not take its gradients by saliencies()")

    def _fingerprints(self) -> dict[str, tuple[Any, ...]]:
        """What shows a change of the copy, or of the model that a formula sees around it."""
        found = fingerprints(self.model.network)
        found[f"{type(self.model.network).__name__} as it is called"] = mode_and_hooks(self.model)
        return found

    def _changed(self, before: Mapping[str, Any]) -> str | None:
        """The first parameter or module that a formula has changed."""
        for name, state in self._fingerprints().items():
            if before.get(name) != state:
                return name
        # a write through ``.data`` leaves no trace but the value
        expected = self._others if self.model.mask is not None else self._others | dict(self.model.dense)
        values = {name: (self.model.get_parameter(name), value) for name, value in expected.items()}
        written = {name: pair for name, pair in values.items() if not still_shared(pair[0])}
        same = zip(written, transfers.equal(written.values()), strict=True)
        return next((name for name, unchanged in same if not unchanged), None)

    @torch.no_grad()
    def _apply_mask(self, mask: Mapping[str, Tensor] | None) -> None:
        """Apply `mask` to the copy, and put back the buffers that a forward pass has changed."""
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
                else:  # the pass has put another in its place, which knows of the graph of that pass, say
                    own_buffers(model.network.get_submodule(place))[key] = before.clone()


@contextmanager
def scoring_context(seed: int, device: torch.device) -> Iterator[None]:
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
