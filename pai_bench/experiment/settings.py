"""The settings of a trial, each described once. Imports no torch.

A field says what it means, its default, at which it is left out of a trial's identity, and its words in a report.
`Sweep`, `Trial`, recipes, the command line, identities, records and reports are derived from the fields here.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Annotated, Any, Literal

from pai_bench.support import spec
from pai_bench.support.errors import UserError
from pai_bench.support.registry import INITIALISATIONS


def option(
    default: Any, help: str, *, axis: bool = False, least: float | None = None, within: str = "", shown: str = ""
) -> Any:
    """A key of a recipe and a flag of ``pai-bench run``.

    `least` is the smallest value, `within` an interval between 0 and 1 with what it is, ``[0, 1]: a probability``;
    `shown` is how a value stands in a help text, where its type does not say so.
    """
    facts = {"help": help, "axis": axis, "least": least, "within": within, "shown": shown}
    return field(default=default, metadata=facts)


def setting(
    default: Any,
    help: str,
    words: Callable[[Any], str] | None = None,
    *,
    always: bool = False,
    usual: Any = None,
    least: float | None = None,
    within: str = "",
    shown: str = "",
    of: str = "",
) -> Any:
    """An `option` that results depend on.

    At its default it is in neither identity nor record, unless `always`, as those that the first results had. `words`
    say it in a report, unless it has the value that is `usual` there, mostly the default. It changes nothing where the
    setting `of` has its usual value.
    """
    facts = {"left_out": MISSING if always else default, "usual": default if usual is None else usual, "words": words}
    facts["of"] = of
    described = option(default, help, least=least, within=within, shown=shown)
    return field(default=default, metadata={**described.metadata, **facts})


def one_time(text: str) -> str:
    """A time of training in the one way in which it is kept: ``5`` and ``2.5%``, not ``05`` and ``2.50 %``."""
    number, percent, rest = text.strip().partition("%")
    try:
        return text if rest else f"{float(number):.12g}%" if percent else str(int(number))
    except ValueError:
        return text  # whoever needs it says why it is none


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """How connections are scored and chosen. The dense reference depends on none of it."""

    scope: Literal["global", "layerwise", "quota"] | None = setting(
        None,
        "rank all layers together, or keep the same share of each; default: the criterion's own, mostly global",
        words="{}".format,
        always=True,
    )
    score_batch: int | None = setting(
        None, "examples in a score batch; default: 10 per class", words="{:g} examples".format, always=True, least=1
    )
    score_sampling: str = setting(
        "balanced",
        "how the score batch is drawn: balanced over classes, random, or class-N, of class N alone",
        words="{}".format,
        always=True,
        shown="balanced|random|class-N",
    )
    score_batches: int = setting(
        1, "number of score batches; see the criteria's option accumulate", words="{:g} score batches".format, least=1
    )
    sparsity_of: Literal["weights", "nodes", "flops"] = setting(
        "weights",
        "what a sparsity is the removed share of; nodes (units of all layers but the last) and flops (operations) are "
        "for structured criteria",
        words="sparsity of {}".format,
    )
    target: Literal["direct", "effective"] = setting(
        "direct", "what a sparsity counts: connections removed, or removed or on no path", words="{} sparsity".format
    )
    min_per_layer: int | float = setting(
        0,
        "connections, or for structured criteria units, that every layer keeps at least; below 1, the share of them",
        words=lambda least: f"at least {100 * least:g} % of each" if 0 < least < 1 else f"at least {least:g} per layer",
        least=0,
    )
    repair: Literal["none", "effective-only"] = setting(
        "none",
        "effective-only: connections on no path give their place to those with the next-best scores",
        words="repair {}".format,
    )
    prunable: str | None = setting(
        None,
        "which parameters to prune, as patterns of their names, with commas between; a name without * or ? may be any "
        "parameter; default: the weights of linear, convolutional, recurrent and attention layers, and what else "
        "multiplies the data",
        words="{}".format,
        shown="A,B,...",
    )
    keep_first: bool = setting(False, "leave the first of the prunable layers whole")
    keep_last: bool = setting(False, "leave the last of the prunable layers whole")
    prune_at: str = setting(
        "0",
        "when to prune: after so many steps of dense training, 500, or a share of them, 2%; 0 is before training",
        words=lambda when: (
            f"pruned after {when.replace('%', ' %')}{' of the' * ('%' in when)} steps"
            if when != "0"
            else "pruned before training"
        ),
        shown="STEPS|X%",
    )
    prune_when: Literal["given", "stable"] = setting(
        "given",
        "stable: prune as soon as the distance of the weights from their start settles, at the latest after half of "
        "the steps",
        words=lambda when: "pruned when the weights settle" if when == "stable" else "pruned at a given time",
    )
    score_labels: Literal["true", "noisy"] = setting(
        "true",
        "labels of the score batch, with label-noise: the true ones, or those that the network is trained on",
        words="scored on {} labels".format,
        of="label_noise",
    )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a network begins with, and the examples that it is trained and tested on; the dense reference, too."""

    train_fraction: float | None = setting(
        None,
        "share of the training set to use, drawn by seed; default: the protocol's, mostly all of it",
        words=lambda share: f"{100 * share:.4g} % of the training set",
        always=True,
        usual=1.0,
        within="(0, 1]",
    )
    subset: Literal["random", "balanced"] = setting(
        "random",
        "how the examples of a train-fraction are drawn; balanced: of each class its share",
        words=lambda subset: "balanced by class" if subset == "balanced" else "drawn at random",
        of="train_fraction",
    )
    length: Literal["epochs", "steps"] = setting(
        "epochs",
        "length of training with a train-fraction: as many epochs, which have fewer steps, or as many steps as with "
        "all of the training set",
        words="trained for as many {} as with all of it".format,
        of="train_fraction",
    )
    init: Annotated[str, spec.OneOf(("own",), INITIALISATIONS, "own|NAME")] = setting(
        "own",
        "initial weights: the network's own, or as drawn by one of `pai-bench list initialisations`, for example vs-x",
        words="weights from {}".format,
    )
    label_noise: float | Literal["permute"] = setting(
        0.0,
        "probability with which a training label is replaced by a random one; permute: all of them are permuted",
        words=lambda noise: (
            "training labels permuted" if noise == "permute" else f"training labels random with probability {noise:.4g}"
        ),
        within="[0, 1]: it is a probability",
        shown="SHARE|permute",
    )
    label_law: Literal["bernoulli", "exact"] = setting(
        "bernoulli",
        "how labels are chosen that label-noise replaces: each with this probability, or exactly this share of them",
        words=lambda law: "exactly this share of them" if law == "exact" else "each by itself",
        of="label_noise",
    )
    validation: float = setting(
        0.0,
        "share of the training set that is held out and takes the place of the test set, to choose settings by",
        words=lambda share: f"tested on {100 * share:.4g} % of the training set",
        within="[0, 1): it is a share of the training set",
    )


@cache
def words(declaring: Any) -> dict[str, Callable[[Any], str]]:
    """How a report writes each of the settings that the class `declaring` them has."""
    return {f.name: f.metadata["words"] for f in fields(declaring) if f.metadata["words"]}


@cache
def names(declaring: Any) -> tuple[str, ...]:
    """The names of the settings that a class declares."""
    return tuple(f.name for f in fields(declaring))


LEFT_OUT = {"variant": "none", "model_version": 1, "traced": ()} | {
    f.name: f.metadata["left_out"]
    for f in (*fields(ScoringSettings), *fields(TrainingSettings))
    if f.metadata["left_out"] is not MISSING
}
"""Key of a trial's configuration -> the value at which it is not there."""


def with_effect(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all settings, with the defaults of those that change nothing beside the others."""
    known = {f.name: f for f in (*fields(ScoringSettings), *fields(TrainingSettings))}
    idle = [f for f in known.values() if (of := f.metadata["of"]) and settings[of] == known[of].metadata["usual"]]
    return {**settings, **{f.name: f.default for f in idle}}


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a stored trial with the settings that were left out of it."""
    return LEFT_OUT | dict(stored)


def unusual(settings: Any, declaring: Any) -> list[str]:
    """What is not as usual among the settings that a class declares, in words; `settings` may be the row of a table."""
    values = ((f.metadata, getattr(settings, f.name)) for f in fields(declaring))
    return [facts["words"](value) for facts, value in values if facts["words"] and value != facts["usual"]]


def check_value(name: str, value: Any, facts: Mapping[str, Any]) -> None:
    """Refuse a value that is too small, or outside of its interval."""
    label = name.replace("_", "-")
    if isinstance(value, int) and facts["least"] is not None and value < facts["least"]:
        raise UserError(f"{label} {value} must be at least {facts['least']}")
    if (within := facts["within"]) and value is not None and not isinstance(value, str):
        above = value >= 0 if within[0] == "[" else value > 0
        below = value <= 1 if within[5] == "]" else value < 1
        if not (above and below):
            raise UserError(f"{label} {value:g} is outside {within}")
