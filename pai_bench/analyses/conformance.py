"""A conformance suite for any criterion, built in or a third party's: what the harness relies on, check by check.

The checks run on small networks of every kind; an error names the criterion, the network and the layer. What a
criterion declares, ``uses_data = False`` and its ``properties``, is checked besides.
"""

import copy
import dataclasses
import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.analyses.conformance_during import DURING_CHECKS, ITERATIVE_CHECKS
from pai_bench.analyses.errors import CheckError
from pai_bench.groups import find_groups
from pai_bench.masks import Mask, Scope
from pai_bench.networks.private_copy import BATCH_NORMS, fingerprints
from pai_bench.pruning.options import PruningOptions
from pai_bench.pruning.prune import all_cuts
from pai_bench.scoring import Batch, Criterion, IterativePruning, Scorer, get_criterion, prunable_parameters, redraw_
from pai_bench.scoring.scorer import checked
from pai_bench.scoring.structured import CombinedScores, score_groups
from pai_bench.support import failures
from pai_bench.support.randomness import random_state

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What one check of a criterion found on one network; `message` is empty where it passed.

    `error` is the part of it that says what is wrong, without where that was noticed.
    """

    check: str
    network: str
    passed: bool
    message: str
    seconds: float
    error: str = ""

    @property
    def pattern(self) -> str:
        """The error without what differs from network to network: names of parameters, and numbers other than lines."""
        return re.sub(r"'[\w.]*(?:weight|bias)\w*'|\([\d, ]+\)|(?<!line )\b\d[\w.+-]*", "…", self.error)


class Residual(nn.Sequential):
    """Adds its input to the output of its layers."""

    def forward(self, input: Tensor) -> Tensor:
        output = input
        for layer in self:
            output = layer(output)
        return input + output


class Recurrent(nn.LSTM):
    """Gives the output of the last step alone."""

    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]  # no states
        last: Tensor = super().forward(input)[0][:, -1]
        return last


def tied() -> Iterable[nn.Module]:
    """Two layers share a weight, and another is frozen."""
    first, second, last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(72, 3)
    second.weight = first.weight
    return first, nn.Softplus(), second, nn.Tanh(), nn.Flatten(), last.requires_grad_(False)


def bias_free_cnn() -> Iterable[nn.Module]:
    """Three layers without biases, convolutions and a linear one."""
    convolutions = nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.ReLU()
    return *convolutions, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3, bias=False)


NETWORKS: dict[str, Callable[[], Iterable[nn.Module]]] = {
    "mlp": lambda: (nn.Flatten(), nn.Linear(72, 8), nn.Tanh(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)),
    "cnn": lambda: (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)),
    "residual": lambda: (Residual(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)), nn.Flatten(), nn.Linear(72, 3)),
    "depthwise": lambda: (nn.Conv2d(2, 4, 3, groups=2), nn.SiLU(), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(32, 3)),
    "lstm": lambda: (nn.Flatten(1, 2), Recurrent(6, 5, batch_first=True), nn.Linear(5, 3)),
    "transformer": lambda: (
        *(nn.Flatten(1, 2), nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(72, 3)),
    ),
    "tied": tied,
    "bias-free-mlp": lambda: (nn.Flatten(), nn.Linear(72, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)),
    "bias-free-cnn": bias_free_cnn,
}
"""Network -> a function that draws its layers. All take images of shape (2, 6, 6); some read them as 12 vectors."""


def example(network: str) -> tuple[nn.Module, Batch]:
    """A network in float64, and 12 examples of 3 classes for it; the same at every call."""
    with random_state(0):
        model = nn.Sequential(*NETWORKS[network]()).double()
        for tensor in model.state_dict().values():
            if tensor.dim() == 1:  # normalisation and biases, away from what they are at initialisation
                tensor.uniform_(0.5, 1.5)
        return model, Batch(torch.randn(12, 2, 6, 6, dtype=torch.float64), torch.arange(12) % 3)


Check = Callable[[Criterion, nn.Module, Batch], None]
"""Raises an error where the criterion does not behave on the network and batch."""


def contract(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """The public `score` gives finite scores for the prunable parameters, in their order, in both precisions."""
    for dtype in (torch.float64, torch.float32):
        model, batch = model.to(dtype), dataclasses.replace(batch, inputs=batch.inputs.to(dtype))
        with prefixing_errors(f"in {dtype}"):
            expect_fit(criterion.score(model, batch), prunable_parameters(model, biases=criterion.biases))


def deterministic(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """The same seed gives the same scores bit for bit, once more and from another global random state."""
    scorer = Scorer(criterion, model, seed=1)
    first = scorer.score(batch)
    expect_same(first, scorer.score(batch), "the scores differ when computed again")
    with random_state(2):
        again = Scorer(criterion, model, seed=1).score(batch)
    expect_same(first, again, "the scores depend on the global random state")


def no_side_effects(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """Scoring and pruning leave everything as it was, also where they fail."""
    model.train().register_forward_hook(lambda _module, _inputs, _output: None)
    for parameter in list(model.parameters())[::2]:
        parameter.grad = torch.ones_like(parameter)
    misfit, mislabelled = Batch(batch.inputs[..., :1], batch.targets), Batch(batch.inputs, batch.targets + 9)
    actions: dict[str, Callable[[], object]] = {
        "score": lambda: criterion.score(model, batch),
        "prune": lambda: pruned(model, batch, criterion, 0.5, schedule="linear:steps=2"),
        "score, on inputs that do not fit,": lambda: criterion.score(model, misfit),
        "score, on targets out of range,": lambda: criterion.score(model, mislabelled),
    }
    for name, action in actions.items():
        before = traces(model, batch)
        with suppress(Exception):  # whether it works is for other checks to say
            action()
        after = traces(model, batch)
        if changed := [key for key in before if before[key] != after.get(key)]:
            raise CheckError(f"{name} changes {', '.join(changed)}; work on copies, and leave the guard of score on")


def pruned(model: nn.Module, batch: Batch, criterion: Criterion, sparsity: float, **options: Any) -> Mask:
    """The mask by the scores of a criterion, also of one that prunes during training."""
    return all_cuts(model, batch, criterion, sparsity, PruningOptions(**options))


def exact_count(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """Pruning keeps ``round((1 - s) * n)`` connections in every scope, and by the criterion's own schedule."""
    size = sum(parameter.numel() for parameter in prunable_parameters(model, biases=criterion.biases).values())
    scopes: tuple[Scope | None, ...] = (None, "global", "layerwise")  # None: the criterion's own
    ways: list[tuple[float, Scope | None, str | None]] = [(0.8, None, None), *product((0.3, 0.9), scopes, ["one-shot"])]
    for sparsity, scope, schedule in ways:
        kept = pruned(model, batch, criterion, sparsity, scope=scope, schedule=schedule).kept
        if kept != (wanted := round((1 - sparsity) * size)):
            how = f"sparsity {sparsity}, scope {scope or criterion.scope}, schedule {schedule or criterion.schedule}"
            raise CheckError(f"{how}: {kept} of {size} connections are kept, not {wanted}")


def masked(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """Scoring works under a mask, also where a whole layer is removed."""
    scorer = Scorer(criterion, model)
    dense = {name: weight.detach().clone() for name, weight in scorer.model.prunable.items()}
    half = {name: torch.rand(shape) < 0.5 for name, shape in scorer.shapes.items()}
    first = next(iter(half))
    for mask, removed in ((half, "half of the weights"), (half | {first: torch.zeros_like(half[first])}, repr(first))):
        with prefixing_errors(f"with {removed} removed"):
            expect_fit(scorer.score(batch, mask), scorer.model.prunable)
            for name, weight in scorer.model.prunable.items():
                if bool(weight[~mask[name]].any()):
                    raise CheckError(f"the formula writes to {name!r}, where the mask has removed weights")
                if not torch.equal(weight, dense[name] * mask[name]):
                    raise CheckError(f"the formula changes the weights of {name!r} under a mask")


DEPENDS_ON_DATA = "the scores depend on the batch, although uses_data is False"


def data_free(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """``uses_data = False``: other examples with other labels give the same scores."""
    scores, other = criterion.score(model, batch), Batch(torch.randn_like(batch.inputs), batch.targets.flip(0))
    expect_same(scores, criterion.score(model, other), "the scores depend on the batch, although uses_data is False")


def keeps_the_loss(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """Removing the tenth of the weights with the lowest scores changes L less than the tenth with the highest."""
    changes: dict[str, list[float]] = {"none": [], "invert": []}
    for seed in range(8):
        drawn = redraw_(model, seed)
        for variant, differences in changes.items():
            mask = pruned(drawn, batch, criterion, 0.1, schedule="one-shot", scope="global", variant=variant)
            sparse = mask.apply_(copy.deepcopy(drawn))
            differences.append(abs(loss(sparse, batch, criterion) - loss(drawn, batch, criterion)))
    lowest, highest = map(fmean, changes.values())
    if lowest >= highest:
        raise CheckError(
            f"without the tenth of the weights that score lowest the loss changes by {lowest:.3g}, without the highest "
            f"by {highest:.3g}, on average: a higher score must mean keep"
        )


def loss_scale(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """A loss ten times as large gives the same mask."""
    large = dataclasses.replace(batch, loss=lambda output, targets: 10 * LOSSES[criterion.loss](output, targets))
    plain = dataclasses.replace(criterion, loss="cross-entropy")  # a batch's own loss takes the place of this
    small_mask = pruned(model, batch, criterion, 0.5, schedule="one-shot")
    large_mask = pruned(model, large, plain, 0.5, schedule="one-shot")
    expect_same(small_mask, large_mask, "the mask changes when the loss is multiplied by 10")


def conserves_flow(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """The scores of every layer have the same sum."""
    (first, flow), *rest = ((name, float(score.sum())) for name, score in criterion.score(model, batch).items())
    for name, total in rest:
        if abs(total - flow) > 1e-9 * abs(flow):
            raise CheckError(f"the scores of {name!r} sum to {total:.12g}, those of {first!r} to {flow:.12g}")


def scores_of_groups(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """A structured criterion gives one finite score to each group, in both precisions."""
    for dtype in (torch.float64, torch.float32):
        with prefixing_errors(f"in {dtype}"):
            free_groups_scored(criterion, model.to(dtype), dataclasses.replace(batch, inputs=batch.inputs.to(dtype)))


def deterministic_groups(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """As `deterministic`."""
    first = free_groups_scored(criterion, model, batch)
    with random_state(2):
        again = free_groups_scored(criterion, model, batch)
    expect_same(first, again, "the scores differ when computed again, from another global random state")


def smaller_networks(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """The networks that earlier cuts have made smaller can be scored and cut again."""
    if find_groups(model, batch.inputs[:1]).count:
        pruned(model, batch, criterion, 0.1, schedule="linear:steps=2")


def data_free_groups(criterion: Criterion, model: nn.Module, batch: Batch) -> None:
    """As `data_free`."""
    other = Batch(torch.randn_like(batch.inputs), batch.targets.flip(0))
    first, second = (free_groups_scored(criterion, model, one) for one in (batch, other))
    expect_same(first, second, DEPENDS_ON_DATA)


def free_groups_scored(criterion: Criterion, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The scores of all groups, and of single weights if both are scored; nothing for a network without groups."""
    groups = find_groups(model, batch.inputs[:1])
    if not groups.count:
        return {}
    scores = score_groups(criterion, model, batch, groups=groups, seed=1)
    return {"groups": scores.groups, **scores.weights} if isinstance(scores, CombinedScores) else {"groups": scores}


Checks = dict[str, tuple[Check, Iterable[str]]]
"""Name of a check -> the check, and the networks that it runs on."""

CHECKS: Checks = {
    "contract": (contract, NETWORKS),
    "deterministic": (deterministic, NETWORKS),
    "no-side-effects": (no_side_effects, NETWORKS),
    "exact-count": (exact_count, NETWORKS),
    "masked": (masked, NETWORKS),
}
"""What every criterion is held to."""

STRUCTURED_CHECKS: Checks = {
    "contract": (scores_of_groups, NETWORKS),
    "deterministic": (deterministic_groups, NETWORKS),
    "no-side-effects": (no_side_effects, NETWORKS),
    "smaller-networks": (smaller_networks, NETWORKS),
}
"""What every structured criterion is held to, on the networks that have groups."""

DATA_FREE: Checks = {"data-free": (data_free, NETWORKS)}
"""What a criterion with ``uses_data = False`` is held to besides."""

STRUCTURED_DATA_FREE: Checks = {"data-free": (data_free_groups, NETWORKS)}
"""The same of a structured one."""

PROPERTIES: Checks = {
    "keeps-the-loss": (keeps_the_loss, ("mlp", "cnn")),
    "loss-scale": (loss_scale, NETWORKS),
    "conserves-flow": (conserves_flow, ("bias-free-mlp", "bias-free-cnn")),
}
"""What a criterion may declare in its ``properties``."""


def check(criterion: str | Criterion) -> list[Result]:
    """The results of all checks of `criterion`, an instance or a name as on the command line."""
    return list(run_checks(criterion))


def run_checks(criterion: str | Criterion) -> Iterator[Result]:
    """The results of `check`, one by one."""
    chosen = get_criterion(criterion)
    due, data_free_too = (STRUCTURED_CHECKS, STRUCTURED_DATA_FREE) if chosen.structured else (CHECKS, DATA_FREE)
    due = due if chosen.uses_data else due | data_free_too
    due = due | DURING_CHECKS if chosen.during else due
    due = due | ITERATIVE_CHECKS if isinstance(chosen, IterativePruning) else due
    due = due | {name: PROPERTIES[name] for name in chosen.properties if name in PROPERTIES}
    for name, (run, networks) in due.items():
        for network in networks:
            yield run_check(name, run, chosen, network)
    for name in chosen.properties:
        if name not in PROPERTIES:
            message = f"{chosen}: unknown property {name!r}; known are {', '.join(PROPERTIES)}"
            yield Result(name, "", False, message, 0.0, message)


def run_check(name: str, run: Check, criterion: Criterion, network: str) -> Result:
    """The result of one check on one network; whatever it raises is a failure."""
    message = reason = ""
    began = time.perf_counter()
    try:
        with random_state(0):
            run(criterion, *example(network))
    except Exception as error:
        message = f"{criterion} on {network}: {described(error)}"
        first: BaseException = error
        while isinstance(first, CheckError) and first.__cause__ is not None:
            first = first.__cause__
        reason = described(first)
        logger.debug("%s on %s", name, network, exc_info=error)
    return Result(name, network, not message, message, time.perf_counter() - began, reason)


def described(error: BaseException) -> str:
    """The message of a failed check; of any other error the type and the line, too."""
    return str(error) if isinstance(error, CheckError) else failures.described(error)


@contextmanager
def prefixing_errors(where: str) -> Iterator[None]:
    """A block whose errors begin with `where`."""
    try:
        yield
    except Exception as error:
        raise CheckError(f"{where}: {described(error)}") from error


def expect_fit(scores: dict[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    """Finite scores for exactly these parameters, in their order."""
    checked(scores, parameters, "score")
    if list(scores) != list(parameters):
        raise CheckError(f"scores come in the order {', '.join(scores)}, not {', '.join(parameters)}")


def expect_same(tensors: Mapping[str, Tensor], other: Mapping[str, Tensor], message: str) -> None:
    """The same tensors, bit for bit."""
    for name, tensor in tensors.items():
        if not torch.equal(tensor, other[name]):
            raise CheckError(f"{message}, in {name!r}")


def traces(model: nn.Module, batch: Batch) -> dict[str, object]:
    """What scoring must leave as it was, bit for bit, by the name under which a message reports it."""
    tensors = {"the inputs": batch.inputs, "the targets": batch.targets, "torch's random state": torch.get_rng_state()}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensors[f"the values of {name!r}"] = tensor.detach()
        tensors[f"the gradient of {name!r}"] = torch.empty(0) if tensor.grad is None else tensor.grad
    states: dict[str, object] = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    states["Python's random state"] = random.getstate()
    states["numpy's random state"] = [str(part) for part in np.random.get_state()]
    return states | {f"flags or hooks of {name!r}": state for name, state in fingerprints(model).items()}


@torch.no_grad()
def loss(model: nn.Module, batch: Batch, criterion: Criterion) -> float:
    """L with dropout off and batch norm in the mode of `criterion`."""
    model = copy.deepcopy(model)  # a forward pass may move running statistics
    for module in model.modules():
        module.training = criterion.bn == "train" and isinstance(module, BATCH_NORMS)
    return float(LOSSES[criterion.loss](model(batch.inputs), batch.targets))


LOSSES = {"cross-entropy": F.cross_entropy, "nll": F.nll_loss}
"""Option ``loss`` -> the loss."""
