"""What a report needs to know of the criteria, data sets and networks that results name, from their registration.

It is looked up on first use, since that loads the criteria and with them torch. What is not installed has the defaults.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pai_bench.experiment.settings import completed
from pai_bench.support.networks import name_of
from pai_bench.support.registry import CRITERIA, DATA

if TYPE_CHECKING:
    from pai_bench.data.facts import Facts
    from pai_bench.scoring.criterion import AuthorsChoice, AuthorsStatement, Criterion

Look = tuple[str, str, str]
"""Colour, marker and line style."""


@dataclass(frozen=True)
class CriterionFacts:
    """What a report needs of a criterion's class (`pai_bench.scoring.Criterion`)."""

    schedule: str = "one-shot"
    scope: str = "global"
    figure_style: Look | None = None
    authors_choices: "tuple[AuthorsChoice, ...]" = ()
    authors_statements: "tuple[AuthorsStatement, ...]" = ()
    own_reading: str = ""
    combined: bool = False


@dataclass(frozen=True)
class ComparisonFacts:
    """What a report needs for one comparison: of its criteria by name, and of its data set."""

    criteria: Mapping[str, CriterionFacts]
    data: str
    """The name by which the data set is registered."""
    classes: float
    """NaN where their number is not known."""

    def combined(self, method: str) -> bool:
        """Whether a method removes single weights of its smaller networks, too.

        What records hold of each layer is then under the mask, and not of the smaller network.
        """
        return self.criteria.get(criterion_of(method), CriterionFacts()).combined


def criterion_of(method: str) -> str:
    """The criterion that a method uses, without its options."""
    return re.split(r", | \+ |:(?=[\w-]+=)", method)[0]


def criteria(methods: Iterable[str]) -> dict[str, CriterionFacts]:
    """Facts about the criteria that methods use, by name."""
    if not (names := {criterion_of(method) for method in methods}):
        return {}
    classes = {plugin.name: plugin.target for plugin in CRITERIA.known()}
    return {name: facts_of(classes[name]) if name in classes else CriterionFacts() for name in names}


def facts_of(cls: "type[Criterion]") -> CriterionFacts:
    """What a report needs of a criterion's class."""
    facts = cls.figure_style, cls.authors_choices, cls.authors_statements, cls.own_reading, cls.combined
    return CriterionFacts(str(cls.schedule), cls.scope, *facts)


def data_set(stored: str) -> "tuple[str, Facts | None]":
    """The registered name of the data set that results call `stored`, and its facts if it is registered."""
    for plugin in DATA.known():
        if stored == plugin.name or (plugin.facts and stored in plugin.facts.also):
            return plugin.name, plugin.facts
    return stored, None


def network_on(trial: Mapping[str, Any]) -> str:
    """The network and the data set of a trial's configuration, for a result that does not hold the data's shape."""
    _, facts = data_set(trial["data"])
    network = name_of(trial["model"], completed(trial)["model_version"], facts.shape if facts else None)
    return f"{network} on {trial['data']}"
