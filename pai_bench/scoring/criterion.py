"""The contract of a criterion: a formula, the facts about it, and its options."""

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
from pai_bench.networks.wrappers import innermost
from pai_bench.scoring.batch import BatchLike, Loss, Scores, as_batch
from pai_bench.scoring.masked_model import MaskedModel
from pai_bench.scoring.options import CriterionOptions
from pai_bench.scoring.prunable import default_names
from pai_bench.scoring.scorer import Formula, Scorer
from pai_bench.support import spec
from pai_bench.support.errors import FROZEN, UserError


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


RENAMED = {"claims": "properties", "revision": "formula_version", "revision_under": "formula_version_under"}
"""Former names of attributes of `Criterion`. Plug-ins may still define and read them, with a deprecation warning."""


@dataclass(frozen=True, kw_only=True)
class Criterion(CriterionOptions):
    """A saliency criterion: its formula, the facts about it, and its options as fields.

    A subclass implements `score`. What a caller gets under that name is guarded: the formula sees a private
    copy of the network, so the caller's model, its gradients, buffers, flags and all random states stay bit for bit
    what they were, and what comes back is checked (`pai_bench.scoring.scorer`).

    Options of every criterion: see `pai_bench.scoring.options`.
    """

    source: ClassVar[str] = ""
    former_name: ClassVar[str] = ""
    """Of a class in a file: the name under which earlier versions of pai-bench stored its results."""
    place: ClassVar[str] = ""
    """Of a class in a file: by which `get_criterion` finds it, in other processes too."""
    schedule: ClassVar[Schedule] = OneShot()
    """Also given as its text, ``exponential:steps=100``, by a subclass."""
    scope: ClassVar[Scope] = "global"
    """How the budget is divided over the layers, unless the caller says otherwise."""
    properties: ClassVar[tuple[str, ...]] = ()
    """Properties that the criterion declares, and that `pai_bench.analyses.conformance` then checks."""
    authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = ()
    """What the authors' code does by another value of an option than the default here."""
    figure_style: ClassVar[tuple[str, str, str] | None] = None
    """Colour, marker and line of the criterion in figures, as matplotlib writes them; None: chosen by its name."""
    formula_version: ClassVar[int] = 1
    """Increased when the formula changes, so that old results are not taken for new ones; stored as ``revision``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for fact in ("name", "source", "former_name", "place", "authors_choices", "figure_style"):
            if fact not in vars(cls):  # a subclass of a registered criterion is another criterion
                setattr(cls, fact, getattr(Criterion, fact))
        if "later" in vars(cls):
            what = "declare each of these options as `NAME: TYPE = added_later(DEFAULT)` (pai_bench.scoring)"
            raise UserError(f"{cls.__name__}.later is not read any more: {what}")
        for old, new in RENAMED.items():
            home = next(base for base in cls.__mro__ if old in vars(base) or new in vars(base))
            if new not in vars(home):
                warn_renamed(cls, old, stacklevel=4)  # beyond the metaclass
                setattr(cls, new, vars(home)[old])
        if isinstance(cls.properties, str):
            cls.properties = (cls.properties,)
        own = inspect.get_annotations(cls)  # with them, it is an option with another default or another meaning
        if hidden := [f.name for f in fields(Criterion) if f.name in vars(cls) and f.name not in own]:
            name = hidden[0]
            raise UserError(f"{cls.__name__}.{name} hides an option of every criterion: annotate it, or rename it")
        if "schedule" in vars(cls) and "ClassVar" in str(own.get("schedule", "ClassVar")):  # else it is an option
            try:
                cls.schedule = get_schedule(cls.schedule)
            except UserError as error:
                raise UserError(f"{cls.__name__}.schedule: {error}") from None
        home = next(base for base in cls.__mro__ if "score" in vars(base))
        if home is cls or not issubclass(home, Criterion):  # a formula; those of base classes are public already
            formula = vars(home)["score"]
            if not getattr(formula, "__isabstractmethod__", False):
                cls._formula_behind_score, cls.score = formula, public(formula)  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        refuse_undecorated(type(self))
        super().__post_init__()

    @abstractmethod
    def score(self, model: Any, batch: Any) -> Scores:
        """Saliencies of all prunable weights of `model`, by name, of the parameters' shapes and devices.

        A subclass writes it as a formula of a `MaskedModel` and a `Batch`. Callers give any network, and a batch also
        as a plain tuple ``(inputs, targets)``, and ``loss=``, a function of the network's output and the targets, for
        networks that do not return logits. Raises `CriterionError` for scores that cannot be ranked.
        """

    def formula_version_under(self, schedule: Schedule) -> int:
        """The version of the formula that matters under `schedule`: results that a change left alone stay valid."""
        return self.formula_version

    def proportions(self, shapes: Mapping[str, torch.Size]) -> Mapping[str, int]:
        """In which proportion the scope ``quota`` divides the budget over the layers, none getting above its size."""
        raise UserError(f"{self} has no quota of its own for each layer; use scope global or layerwise")

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        if not self.place:
            return super().__reduce_ex__(protocol)
        from pai_bench.scoring.lookup import unpickled

        return unpickled, (self.place, self.name, vars(self))

    def configuration(self, schedule: Schedule) -> dict[str, Any]:
        """What a result depends on, as plain values; an option that came later only where it changes something."""
        options = [[name, value] for name, value in spec.identifying(self).items()]
        version = self.formula_version_under(schedule)
        return {"name": str(self), "options": options, "revision": version, "schedule": str(schedule)}

    def __str__(self) -> str:
        return spec.write(self.name or type(self).__name__, self)


class RenamedAttribute:
    """Reads an attribute of a criterion by its former name."""

    def __init__(self, old: str) -> None:
        self.old = old

    def __get__(self, instance: object, owner: type) -> Any:
        warn_renamed(owner, self.old)
        return getattr(owner if instance is None else instance, RENAMED[self.old])


def warn_renamed(cls: type, old: str, stacklevel: int = 3) -> None:
    """Warn, where `cls` is defined or read, that an attribute of it has another name."""
    warnings.warn(f"{cls.__name__}.{old} is deprecated: name it {RENAMED[old]}", DeprecationWarning, stacklevel)


for _old in RENAMED:  # not in the class, since a type checker would compare what plug-ins define with it
    setattr(Criterion, _old, RenamedAttribute(_old))


def public(formula: Formula) -> Callable[..., Scores]:
    """The public `score` of a criterion, which any network may be given to, around the `formula` of its class."""

    @functools.wraps(formula)
    def score(self: Criterion, model: nn.Module, batch: BatchLike, *, loss: Loss | None = None) -> Scores:
        model, batch = innermost(model), as_batch(batch, loss)
        if not isinstance(model, MaskedModel):
            return score_masked(self, model, batch)
        if model.options is self:  # super().score(...), inside of a score
            return formula(self, model, batch)
        with Scorer.within(model, self) as scorer:  # another criterion, inside of a score
            return scorer.score(batch, model.mask)

    return score


def score_masked(
    criterion: Criterion, model: nn.Module, batch: BatchLike, mask: Mapping[str, Tensor] | None = None, *, seed: int = 0
) -> Scores:
    """The scores of `criterion` for `model` under `mask`, without side effects.

    `seed` serves criteria with randomness of their own, unless their option ``seed`` says otherwise.
    """
    given = as_batch(batch)
    only = default_names(model, given.inputs[:1], biases=criterion.biases)
    with Scorer(criterion, model, seed=seed, only=only) as scorer:
        return scorer.score(given, mask)


def refuse_undecorated(cls: type[Criterion]) -> None:
    """An error for a class with options of its own that no record would hold, since it is no dataclass."""
    for base in cls.__mro__[: cls.__mro__.index(Criterion)]:
        if issubclass(base, Criterion) and "__dataclass_fields__" not in vars(base):
            given = [name for name, kind in inspect.get_annotations(base).items() if "ClassVar" not in str(kind)]
            if given or "__init__" in vars(base):
                raise UserError(
                    f"{base.__name__} has {given[0] if given else 'an __init__'}, but is no dataclass: {FROZEN}"
                )
