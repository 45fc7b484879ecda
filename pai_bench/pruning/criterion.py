"""The contract of a criterion: `Batch` in, `Scores` out, and which parameters are prunable."""

import dataclasses
import inspect
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pai_bench.pruning.schedule import OneShot, Schedule, get_schedule
from pai_bench.pruning.selection import Scope, Ties
from pai_bench.pruning.wrappers import unwrapped
from pai_bench.support import spec
from pai_bench.support.arrays import as_tensor, cure
from pai_bench.support.errors import FROZEN, UserError, unknown
from pai_bench.support.registry import INITIALISATIONS

Scores = dict[str, Tensor]
"""Parameter name -> saliency, of the parameter's shape and device; higher means keep."""

BatchNormMode = Literal["train", "eval"]

Loss = Callable[[Any, Tensor], Tensor]
"""A function of the network's output and the targets that gives a scalar, the mean over the examples."""


@dataclass(frozen=True)
class Batch:
    """Labelled examples: `inputs` of shape (N, ...) and class indices `targets` of shape (N,).

    `loss` is needed for networks that return anything but logits of shape (N, classes); then the targets may be any
    tensor of N rows. `batches` divides the examples, in their order, into as many score batches of equal size: each
    goes through the network by itself, and L is the mean of their losses. Arrays of numpy become tensors, those of
    float64 of torch's default type.
    """

    inputs: Tensor
    targets: Tensor
    loss: Loss | None = None
    batches: int = 1

    def __post_init__(self) -> None:
        for role in ("inputs", "targets"):
            tensor = as_tensor(given := getattr(self, role), f"the batch's {role}")
            if tensor is not given and tensor.dtype is torch.float64:  # which numpy makes
                tensor = tensor.to(torch.get_default_dtype())
            object.__setattr__(self, role, tensor)
        if self.inputs.dim() == 0 or len(self.inputs) == 0:
            raise UserError("the batch is empty")
        size, shape, dtype = len(self.inputs), tuple(self.targets.shape), self.targets.dtype
        if self.loss is None:
            if shape != (size,) or dtype.is_floating_point or dtype.is_complex or dtype is torch.bool:
                raise UserError(f"targets must be {size} class indices, one per input, not {dtype} of shape {shape}")
            object.__setattr__(self, "targets", self.targets.long())
        elif shape[:1] != (size,):
            raise UserError(f"targets must have {size} rows, one per input, not the shape {shape}")
        if self.batches < 1 or size % self.batches:
            raise UserError(f"{size} examples cannot be divided into {self.batches} score batches of equal size")

    def __iter__(self) -> Iterator[Tensor]:
        yield self.inputs
        yield self.targets

    def to(self, device: torch.device | str) -> "Batch":
        """The same examples on `device`."""
        return dataclasses.replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def split(self, size: int | None = None) -> "list[Batch]":
        """The score batches, each cut into micro-batches of at most `size` examples."""
        whole = len(self.inputs) // self.batches
        return [
            dataclasses.replace(
                self, inputs=self.inputs[i:j], targets=self.targets[i:j], batches=1
            )  # views, not copies
            for start in range(0, len(self.inputs), whole)
            for i in range(start, start + whole, size or whole)
            for j in [min(i + (size or whole), start + whole)]
        ]


BatchLike = Batch | tuple[Tensor | np.ndarray, Tensor | np.ndarray]


def as_batch(batch: BatchLike, loss: Loss | None = None) -> Batch:
    """A `Batch` from a `Batch` or from a plain ``(inputs, targets)`` tuple, with `loss` if one is given."""
    if isinstance(batch, Batch):
        return batch if loss is None else dataclasses.replace(batch, loss=loss)
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise UserError(f"a batch is a Batch or a tuple (inputs, targets), not {type(batch).__name__}{cure(batch)}")
    return Batch(*batch, loss=loss)  # type: ignore[arg-type]  # which makes tensors of arrays


@dataclass(frozen=True)
class AuthorsChoice:
    """What the code of a criterion's authors does: a report says where trials do not do the same."""

    option: str
    """Of the criterion, or a setting of the trial, as records call it."""
    text: str
    """What their code does, to follow "its authors' code"."""
    values: tuple[object, ...] = ()
    """Those of the option that do the same; without any, all do but those of `otherwise`."""
    otherwise: tuple[object, ...] = ()

    def is_made(self, value: object) -> bool:
        """Whether a `value` of the option does the same; None is that of a record that does not hold it."""
        return value is not None and (value in self.values if self.values else value not in self.otherwise)


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


def usual_names(module: nn.Module, biases: bool) -> list[str]:
    """The names, inside `module` itself, of the parameters that are pruned of the usual layers."""
    if isinstance(module, _WHOLE_WEIGHT):
        return ["weight", "bias"] if biases else ["weight"]
    if isinstance(module, nn.MultiheadAttention):
        return [*_PROJECTIONS, "in_proj_bias"] if biases else [*_PROJECTIONS]
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        kinds = ("weight", "bias") if biases else ("weight",)
        return [name for name, _ in module.named_parameters(recurse=False) if name.startswith(kinds)]
    return []


Prunable = Iterable[str] | Callable[[str, nn.Parameter], bool]
"""Which parameters to prune in place of the usual ones: their names, or a predicate of name and parameter."""


def prunable_parameters(
    model: nn.Module, *, biases: bool = False, only: Prunable | None = None
) -> dict[str, nn.Parameter]:
    """The parameters that pruning may remove, by name, in the model's own order.

    These are the weights, and with `biases` the biases, of the usual layers: linear layers, convolutions, recurrent
    layers and attention projections, frozen ones too; never those of normalisation or embeddings. A weight that
    several modules share counts once; one that a linear layer shares with an embedding counts. What else multiplies
    the data only a forward pass tells (`pai_bench.pruning.prunable`). `only` overrides all of this. Inside a
    criterion's `score`, these are the parameters to be scored, whichever the caller chose.
    """
    model = unwrapped(model)
    if (scoring := SCORING.get(model)) is not None:
        return dict(scoring.parameters)
    every = dict(model.named_parameters())
    if callable(only):
        found = {name: parameter for name, parameter in every.items() if only(name, parameter)}
    elif only is not None:
        names = [only] if isinstance(only, str) else list(only) if isinstance(only, Iterable) else [only]
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise UserError(f"prunable is names of parameters, or a predicate of name and parameter, not {wrong[0]!r}")
        for name in names:
            if name not in every:
                raise unknown(f"parameter of {type(model).__name__}", name, every)
        found = {name: parameter for name, parameter in every.items() if name in names}
    else:
        prunable: set[int] = set()
        for module in model.modules():
            prunable.update(id(module._parameters.get(name)) for name in usual_names(module, biases))
        found = {name: parameter for name, parameter in every.items() if id(parameter) in prunable}
    found = {name: parameter for name, parameter in found.items() if is_lazy(parameter) or parameter.numel()}
    if not found:
        raise UserError(f"{type(model).__name__} has no prunable weight (Linear, Conv, RNN, attention)")
    for name, parameter in found.items():
        if is_lazy(parameter):
            raise UserError(f"{name!r} has no shape yet: pass one batch through {type(model).__name__} first")
        if not parameter.is_floating_point():
            raise UserError(f"{name!r} has dtype {parameter.dtype}; only floating-point weights can be pruned")
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
    * ``accumulate``: with several score batches, whether the formula is applied to the gradient of their mean loss
      (``gradient``), or to each batch's own gradient, and the scores summed (``score``).
    * ``score_init``: the weights that are scored: those that will be trained (``trained``), another draw of their
      initialisation (``redrawn``), or a draw by another one (`pai_bench.support.initialise`): Glorot (``vs-x``), He
      (``vs-h``), by fan in (``vs``), standard normal (``rn``), or that cut off at 2 (``tn``).
    * ``loss``: L of the logits: their cross-entropy, or what some codes take by mistake (``nll``), the negative
      log-likelihood of logits as if they were log-probabilities: minus the logit of the target.
    * ``ties``: what becomes of connections whose scores equal the threshold: those first by position are kept, so that
      the number is exact (``position``), or all of them (``keep``), or none (``remove``).
    * ``biases``: whether biases are scored and counted in the budget like weights.
    * ``micro_batch``: number of examples that go through the network at once, to save memory; the gradients are those
      of the whole batch.
    * ``score_dtype``: the arithmetic of scoring, ``float32`` or ``float64``; by default that of the weights, but
      float32 for those of half precision, in which most scores underflow. In float64, the masks of two machines are
      the same but for scores that differ by their rounding there.
    * ``seed``: of the criterion's own randomness; by default the caller's.
    """

    bn: BatchNormMode = "eval"
    seed: int | None = None
    accumulate: Literal["gradient", "score"] = spec.added_later("gradient")
    score_init: Annotated[str, spec.OneOf(("trained", "redrawn"), INITIALISATIONS)] = spec.added_later("trained")
    loss: Literal["cross-entropy", "nll"] = spec.added_later("cross-entropy")
    ties: Ties = spec.added_later("position")
    biases: bool = spec.added_later(False)
    micro_batch: int | None = spec.added_later(None)
    score_dtype: Literal["float32", "float64"] | None = spec.added_later(None)

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    former_name: ClassVar[str] = ""
    """Of a class in a file: the name under which earlier versions of pai-bench stored its results."""
    place: ClassVar[str] = ""
    """Of a class in a file: by which `get_criterion` finds it, in other processes too."""
    schedule: ClassVar[Schedule] = OneShot()
    """Also given as its text, ``exponential:steps=100``, by a subclass."""
    scope: ClassVar[Scope] = "global"
    """How the budget is divided over the layers, unless the caller says otherwise."""
    uses_data: ClassVar[bool] = True
    """Whether the score depends on the batch; where it does not, neither does it depend on ``bn``."""
    normalised: ClassVar[bool] = False
    """Whether the scores are divided by their sum over the whole network; the formula need not do it."""
    claims: ClassVar[tuple[str, ...]] = ()
    """Properties that the criterion declares and that `pai_bench.analyses.conformance` then holds it to."""
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = ()
    """What the authors' code does by another value of an option than the default here."""
    figure_style: ClassVar[tuple[str, str, str] | None] = None
    """Colour, marker and line of the criterion in figures, as matplotlib writes them; None: chosen by its name."""
    revision: ClassVar[int] = 1
    """Raised whenever the formula changes, so that old results are not taken for new ones (`revision_under`)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for fact in ("name", "source", "former_name", "place", "authors_choices", "figure_style"):
            if fact not in vars(cls):  # a subclass of a registered criterion is another criterion
                setattr(cls, fact, getattr(Criterion, fact))
        if "later" in vars(cls):
            what = "declare each of these options as `NAME: TYPE = added_later(DEFAULT)` (pai_bench.pruning)"
            raise UserError(f"{cls.__name__}.later is not read any more: {what}")
        if isinstance(cls.claims, str):
            cls.claims = (cls.claims,)
        own = inspect.get_annotations(cls)  # with them, it is an option with another default or another meaning
        if hidden := [f.name for f in fields(Criterion) if f.name in vars(cls) and f.name not in own]:
            name = hidden[0]
            raise UserError(f"{cls.__name__}.{name} hides an option of every criterion: annotate it, or rename it")
        if "schedule" in vars(cls) and "ClassVar" in str(own.get("schedule", "ClassVar")):  # else it is an option
            try:
                cls.schedule = get_schedule(cls.schedule)
            except UserError as error:
                raise UserError(f"{cls.__name__}.schedule: {error}") from None
        if not hasattr(cls.score, "formula") and not getattr(cls.score, "__isabstractmethod__", False):
            from pai_bench.pruning.guard import guarded

            cls.score = guarded(cls.score)  # type: ignore[assignment, method-assign]

    def __post_init__(self) -> None:
        refuse_undecorated(type(self))
        hints = spec.option_types(type(self))
        for f in fields(self):
            if f.name in hints:
                label = f"{self.name or type(self).__name__}:{f.name}"
                object.__setattr__(self, f.name, spec.convert(getattr(self, f.name), hints[f.name], label))
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed} is outside 0..2**63")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise UserError(f"micro_batch={self.micro_batch} must be at least 1")

    @abstractmethod
    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """Saliencies of all prunable weights of `model`, from `batch` (also given as a plain tuple)."""

    def prepare(self, model: nn.Module) -> None:  # noqa: B027  # most criteria have nothing to do here
        """Change the private copy of the network, once, before any mask is laid on it; `score` may not change it."""

    def revision_under(self, schedule: Schedule) -> int:
        """The revision as far as it matters under `schedule`: results that a change has left alone stay valid."""
        return self.revision

    def proportions(self, shapes: Mapping[str, torch.Size]) -> Mapping[str, int]:
        """In which proportion the scope ``quota`` divides the budget over the layers, none getting above its size."""
        raise UserError(f"{self} has no quota of its own for each layer; use scope global or layerwise")

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        if not self.place:
            return super().__reduce_ex__(protocol)
        from pai_bench.pruning.lookup import unpickled

        return unpickled, (self.place, self.name, vars(self))

    def configuration(self, schedule: Schedule) -> dict[str, Any]:
        """What a result depends on, as plain values; an option that came later only where it changes something."""
        options = [[name, value] for name, value in spec.identifying(self).items()]
        revision = self.revision_under(schedule)
        return {"name": str(self), "options": options, "revision": revision, "schedule": str(schedule)}

    def __str__(self) -> str:
        return spec.write(self.name or type(self).__name__, self)


def refuse_undecorated(cls: type[Criterion]) -> None:
    """An error for a class with options of its own that no record would hold, since it is no dataclass."""
    for base in cls.__mro__[: cls.__mro__.index(Criterion)]:
        if issubclass(base, Criterion) and "__dataclass_fields__" not in vars(base):
            given = [name for name, kind in inspect.get_annotations(base).items() if "ClassVar" not in str(kind)]
            if given or "__init__" in vars(base):
                raise UserError(
                    f"{base.__name__} has {given[0] if given else 'an __init__'}, but is no dataclass: {FROZEN}"
                )


class Spare:
    """Memory of scores that nobody needs any more, for gradients that are written into it, by id of the parameter."""

    def __init__(self) -> None:
        self._wanted: set[int] = set()
        self._tensors: dict[int, Tensor] = {}

    def take(self, key: int) -> Tensor | None:
        """A tensor of the parameter's shape that nobody else holds, if there is one."""
        self._wanted.add(key)
        return self._tensors.pop(key, None)

    def give(self, tensors: Mapping[int, Tensor]) -> None:
        """Offer tensors; those are kept that have been asked for before."""
        self._tensors = {key: tensor for key, tensor in tensors.items() if key in self._wanted}


@dataclass
class Scoring:
    """What is known of a private copy of a network while it is scored."""

    criterion: Criterion
    seed: int
    parameters: Mapping[str, nn.Parameter]
    """What is to be scored, under the mask."""
    dense: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    """The same weights without the mask."""
    mask: Mapping[str, Tensor] | None = None
    returns: bool = True
    """Whether a connection that the mask removes may be kept again, so that its score matters."""
    spare: "Spare" = dataclasses.field(default_factory=lambda: Spare())
    consulted: bool = False
    """Whether the formula takes its gradients here, where score batches and micro-batches are known."""
    loss_taken: bool = False
    """Whether the formula takes its loss here, where it is known which one the criterion asks for."""


SCORING: "weakref.WeakKeyDictionary[nn.Module, Scoring]" = weakref.WeakKeyDictionary()
"""Private copy of a network -> what is known of it."""


def uniform_scores(model: nn.Module) -> Scores:
    """Independent uniform scores in [0, 1) from the current random state, the same on every device."""
    return {
        name: torch.rand(parameter.shape, dtype=torch.float64, device="cpu").to(parameter.device)
        for name, parameter in prunable_parameters(model).items()
    }
