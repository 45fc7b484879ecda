"""The contract of a criterion: its formula, facts about it, and its options."""

import dataclasses
import functools
import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, SupportsIndex

import torch
from torch import Tensor, nn

from pai_bench.masks.schedule import OneShot, Schedule, get_schedule
from pai_bench.masks.selection import Scope
from pai_bench.networks.private_copy import BatchNormMode
from pai_bench.networks.wrappers import innermost
from pai_bench.scoring.batch import Batch, BatchLike, Loss, Scores, as_batch
from pai_bench.scoring.masked_model import MaskedModel
from pai_bench.scoring.options import CriterionOptions
from pai_bench.scoring.prunable import default_names
from pai_bench.scoring.scorer import Formula, Scorer
from pai_bench.support import spec
from pai_bench.support.errors import FROZEN, UserError


@dataclass(frozen=True)
class AuthorsChoice:
    """A choice in the code of a criterion's authors. Reports say where trials differ from it."""

    option: str
    """Name of the criterion's option, or of the trial's setting, as in records."""
    text: str
    """What their code does, to be read after "its authors' code"."""
    values: tuple[object, ...] = ()
    """Values of the option that do the same; if empty, all values but `otherwise`."""
    otherwise: tuple[object, ...] = ()

    def is_made(self, value: object) -> bool:
        """Whether a `value` of the option does the same. None, of a record without it, does not."""
        return value is not None and (value in self.values if self.values else value not in self.otherwise)


@dataclass(frozen=True)
class AuthorsStatement:
    """What a criterion's authors state of networks that it prunes. Reports show it beside results of such a network."""

    data: str
    """The registered name of the data set."""
    model: str
    """A part of the network's name."""
    text: str
    """To be read after "its authors state", with where it stands."""


RENAMED = {"claims": "properties", "revision": "formula_version", "revision_under": "formula_version_under"}
"""Former names of attributes of `Criterion`. Plug-ins may still define and read them, with a deprecation warning."""


@dataclass(frozen=True, kw_only=True)
class Criterion(CriterionOptions):
    """A saliency criterion: its formula `score`, facts about it, and its options as fields.

    A subclass is a frozen dataclass that implements `score`; its further fields are further options, beside those of
    `CriterionOptions`. Callers of `score` get a wrapper: the formula sees a private copy of the network, so that the
    caller's model, its gradients, buffers, flags and all random states stay bit for bit as they were, and the scores
    are checked (`pai_bench.scoring.scorer`).

    Raises `UserError` when a class is defined that hides an option of every criterion or has an unknown schedule, and
    when an instance is made of a class that has options but is not a dataclass.
    """

    source: ClassVar[str] = ""
    """Where the formula is defined: the paper, with its arXiv number. `pai_bench.criterion` sets it."""
    former_name: ClassVar[str] = ""
    """For a class in a file: the name under which earlier versions of pai-bench stored its results."""
    place: ClassVar[str] = ""
    """For a class in a file: ``PATH:CLASS``, by which `get_criterion` finds it, in other processes too."""
    schedule: ClassVar[Schedule] = OneShot()
    """The default schedule. A subclass may give its text, ``exponential:steps=100``."""
    scope: ClassVar[Scope] = "global"
    """The default scope: whether all layers are ranked together, each keeps the same share, or its quota."""
    properties: ClassVar[tuple[str, ...]] = ()
    """Properties that the criterion declares, and that `pai_bench.analyses.conformance` then checks."""
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = ()
    """Choices in the authors' code that are not the defaults of this criterion's options."""
    authors_statements: ClassVar[tuple[AuthorsStatement, ...]] = ()
    """What the authors state of networks that their criterion makes smaller, or prunes during training."""
    own_reading: ClassVar[str] = ""
    """What its source leaves open, and was decided here, to be read behind its name. Reports say so."""
    figure_style: ClassVar[tuple[str, str, str] | None] = None
    """Colour, marker and line style in figures, in matplotlib's notation; None: derived from the name."""
    formula_version: ClassVar[int] = 1
    """Increased when the formula changes, so that old results are not taken for new ones; stored as ``revision``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        facts = "authors_choices", "authors_statements", "own_reading", "figure_style"
        for fact in ("name", "source", "former_name", "place", *facts):
            if fact not in vars(cls):  # a subclass of a registered criterion is another criterion
                setattr(cls, fact, getattr(Criterion, fact))
        if "later" in vars(cls):
            cure = "declare each of these options as `NAME: TYPE = added_later(DEFAULT)` (pai_bench.scoring)"
            raise UserError(f"{cls.__name__}.later is not read any more: {cure}")
        for old, new in RENAMED.items():
            home = next(base for base in cls.__mro__ if old in vars(base) or new in vars(base))
            if new not in vars(home):
                warn_renamed(cls, old, stacklevel=4)  # beyond the metaclass
                setattr(cls, new, vars(home)[old])
        if isinstance(cls.properties, str):
            cls.properties = (cls.properties,)
        own = inspect.get_annotations(cls)  # an annotation makes it an option with another default or meaning
        if hidden := [f.name for f in fields(Criterion) if f.name in vars(cls) and f.name not in own]:
            name = hidden[0]
            raise UserError(f"{cls.__name__}.{name} hides an option of every criterion: annotate it, or rename it")
        if "schedule" in vars(cls) and "ClassVar" in str(own.get("schedule", "ClassVar")):  # else it is an option
            try:
                cls.schedule = get_schedule(cls.schedule)
            except UserError as error:
                raise UserError(f"{cls.__name__}.schedule: {error}") from None
        home = next(base for base in cls.__mro__ if "score" in vars(base))
        if home is cls or not issubclass(home, Criterion):  # formulas of base classes are wrapped already
            formula = vars(home)["score"]
            if not getattr(formula, "__isabstractmethod__", False):
                cls._formula_behind_score, cls.score = formula, public(formula)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        refuse_undecorated(type(self))
        super().__post_init__()

    @property
    def during(self) -> bool:
        """Whether it changes the mask during training, too (`pai_bench.scoring.DuringTraining`)."""
        return False

    @property
    def begins_dense(self) -> bool:
        """Whether it removes nothing before the first step of training."""
        return False

    @abstractmethod
    def score(self, model: Any, batch: Any) -> Scores | Any:  # of a structured criterion, a tensor
        """Saliencies of all prunable weights of `model`: parameter name -> tensor of its shape and device.

        A subclass implements it for a `MaskedModel` and a `Batch`. Callers pass any network, a `Batch` or a tuple
        ``(inputs, targets)``, and for networks that do not return logits ``loss=``, a function of the network's output
        and the targets. Raises `UserError` for batches that do not fit, and its subclass `CriterionError` for scores
        that cannot be ranked: missing, of another shape, NaN or infinite.
        """

    def score_network(self, model: nn.Module, batch: Batch) -> Scores | Any:
        """What `score` gives for a network that is no `MaskedModel`."""
        return score_masked(self, model, batch)

    def with_batch_norm(self, mode: BatchNormMode) -> "Criterion":
        """The same criterion with ``bn`` set to `mode`; UserError if its options ask for another one."""
        if self.bn not in (mode, type(self).bn):
            raise UserError(f"{self} and bn {mode} ask for different modes of batch norm")
        return dataclasses.replace(self, bn=mode)

    def formula_version_under(self, schedule: Schedule) -> int:
        """The version of the formula that matters under `schedule`: results that a change left alone stay valid."""
        return self.formula_version

    def proportions(self, shapes: Mapping[str, torch.Size]) -> Mapping[str, int]:
        """The proportions in which the scope ``quota`` divides the connections: parameter name -> weight, at least 0.

        `shapes` are those of the parameters. No layer gets more than its size. Raises `UserError` where a criterion
        does not define them.
        """
        raise UserError(f"{self} has no quota of its own for each layer; use scope global or layerwise")

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        if not self.place:
            return super().__reduce_ex__(protocol)
        from pai_bench.scoring.lookup import unpickled

        return unpickled, (self.place, self.name, vars(self))

    def configuration(self, schedule: Schedule) -> dict[str, Any]:
        """The identity of this criterion in results, as plain values: options that were added later only if changed."""
        options = [[name, value] for name, value in spec.identity_fields(self).items()]
        version = self.formula_version_under(schedule)
        return {"name": str(self), "options": options, "revision": version, "schedule": str(schedule)}

    def __str__(self) -> str:
        return spec.write(self.name or type(self).__name__, self)

    @property
    def renamed(self) -> tuple[str, str] | None:
        """A part of its text, and what earlier versions of pai-bench wrote in its place; None if the same."""
        return (self.name, self.former_name) if self.former_name else None


class RenamedAttribute:
    """Reads an attribute of a criterion by its former name."""

    def __init__(self, old: str) -> None:
        self.old = old

    def __get__(self, instance: object, owner: type) -> Any:
        warn_renamed(owner, self.old)
        new, classes = RENAMED[self.old], owner.__mro__
        # if a class has the former name, this is its call of super(), and its own is not meant
        callers = [place for place, cls in enumerate(classes) if self.old in vars(cls) and cls is not Criterion]
        if not callers:
            return getattr(owner if instance is None else instance, new)
        found = next(vars(cls)[new] for cls in classes[callers[-1] + 1 :] if new in vars(cls))
        return found.__get__(instance, owner) if hasattr(found, "__get__") else found


def warn_renamed(cls: type, old: str, stacklevel: int = 3) -> None:
    """Warn, where `cls` is defined or read, that an attribute of it has another name."""
    warnings.warn(f"{cls.__name__}.{old} is deprecated: name it {RENAMED[old]}", DeprecationWarning, stacklevel)


for _old in RENAMED:  # not in the class, since a type checker would compare what plug-ins define with it
    setattr(Criterion, _old, RenamedAttribute(_old))


def public(formula: Formula) -> Callable[..., Scores]:
    """The public `score` of a criterion, for any network, around the `formula` of its class."""

    @functools.wraps(formula)
    def score(self: Criterion, model: nn.Module, batch: BatchLike, *, loss: Loss | None = None) -> Scores:
        model, batch = innermost(model), as_batch(batch, loss)
        if not isinstance(model, MaskedModel):
            return self.score_network(model, batch)
        if model.options is self:  # super().score(...) in a formula
            return formula(self, model, batch)
        with Scorer.within(model, self) as scorer:  # another criterion in a formula
            return scorer.score(batch, model.mask)

    return score


def score_masked(
    criterion: Criterion, model: nn.Module, batch: BatchLike, mask: Mapping[str, Tensor] | None = None, *, seed: int = 0
) -> Scores:
    """The scores of `criterion` for `model` under `mask`, without side effects.

    `seed` is that of the criterion's random numbers, unless its option ``seed`` is set.
    """
    batch = as_batch(batch)
    only = default_names(model, batch.inputs[:1], biases=criterion.biases)
    with Scorer(criterion, model, seed=seed, only=only) as scorer:
        return scorer.score(batch, mask)


def refuse_undecorated(cls: type[Criterion]) -> None:
    """Raise for a class that has options but is no dataclass, since no record would hold them."""
    for base in cls.__mro__[: cls.__mro__.index(Criterion)]:
        if issubclass(base, Criterion) and "__dataclass_fields__" not in vars(base):
            options = [name for name, type_ in inspect.get_annotations(base).items() if "ClassVar" not in str(type_)]
            if options or "__init__" in vars(base):
                raise UserError(
                    f"{base.__name__} has {options[0] if options else 'an __init__'}, but is no dataclass: {FROZEN}"
                )
