"""What a report knows of criteria and data sets: what stands with their registration, a third party's too."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from types import SimpleNamespace
from typing import ClassVar

import pytest

from pai_bench.report import plugin_facts
from pai_bench.report.figures.style import looks
from pai_bench.report.provenance import departures
from pai_bench.scoring import AuthorsChoice, get_criterion
from pai_bench.support.errors import UserError
from pai_bench.support.registry import CRITERIA, Registry, criterion
from tests.report.records import LOOKS, record

SNIP = type(get_criterion("snip"))


@pytest.fixture
def theirs() -> Iterator[None]:
    """A registered criterion with facts of its own, and one that takes its formula from SNIP."""

    @criterion("theirs", source="a test")
    @dataclass(frozen=True)
    class Theirs(SNIP):  # type: ignore[misc, valid-type]
        """score = |w g|."""

        schedule: ClassVar[str] = "linear:steps=4"
        figure_style: ClassVar[tuple[str, str, str]] = ("#123456", "*", ":")
        authors_choices: ClassVar[tuple[AuthorsChoice, ...]] = (AuthorsChoice("ties", "keeps all", ("keep",)),)

    @criterion("like-snip", source="a test")
    @dataclass(frozen=True)
    class LikeSNIP(SNIP):  # type: ignore[misc, valid-type]
        """score = |w g|."""

    yield
    for name in ("theirs", "like-snip"):
        del CRITERIA._plugins[name]


@pytest.mark.usefixtures("theirs")
def test_facts_stand_with_the_criterion() -> None:
    methods = ["theirs", "like-snip", "gone", "snip"]
    found = plugin_facts.criteria([*methods, "theirs:bn=train + shuffle"])
    assert sorted(found) == sorted(methods)
    assert found["theirs"].schedule == "linear:steps=4"
    assert found["gone"] == plugin_facts.CriterionFacts()
    assert looks(methods)["theirs"] == ("#123456", "*", ":")
    assert looks(methods)["snip"] == LOOKS["snip"]
    assert looks(["like-snip"])["like-snip"] != LOOKS["snip"]
    records = [record(name, 0.9, 0, 0.9) for name in ("theirs", "like-snip", "gone")]
    assert departures(records) == ["theirs: its authors' code keeps all; here it does not."]


@pytest.mark.parametrize(
    ("choice", "made", "not_made"),
    [
        (AuthorsChoice("ties", "", ("keep", "remove")), ["keep", "remove"], ["position", None]),
        (AuthorsChoice("score_init", "", otherwise=("trained",)), ["redrawn", "mine"], ["trained", None]),
    ],
)
def test_authors_choices(choice: AuthorsChoice, made: list[str], not_made: list[str | None]) -> None:
    assert all(map(choice.is_made, made))
    assert not any(map(choice.is_made, not_made))


def test_a_collection_that_does_not_load_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry("thing", "pai_bench.none")

    def load() -> None:
        if "ours" not in {plugin.name for plugin in registry._plugins.values()}:
            registry.register("ours", source="here")(object())

    def refuse() -> None:
        raise ImportError("gone")

    points = [SimpleNamespace(value="theirs", load=refuse), SimpleNamespace(value="ours", load=load)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points)
    assert [plugin.name for plugin in registry.known()] == ["ours"]
    with pytest.raises(UserError, match=r"plugin .theirs. of pai_bench\.none does not load"):
        registry.find("ours")


@pytest.mark.parametrize(
    ("model", "version", "data", "name"),
    [
        ("vgg-16-bn", 1, "cifar10", "vgg-16-bn on cifar10"),
        ("vgg-16-bn", 1, "tiny-imagenet", "vgg-16-bn (version 1) on tiny-imagenet"),
        ("vgg-16-bn", 2, "tiny-imagenet", "vgg-16-bn on tiny-imagenet"),
        ("resnet-20", 1, "mine", "resnet-20-identity on mine"),
    ],
)
def test_old_and_new_networks_stand_apart(model: str, version: int, data: str, name: str) -> None:
    changed = {} if version == 1 else {"model_version": version}
    assert plugin_facts.network_on({"model": model, "data": data, **changed}) == name
