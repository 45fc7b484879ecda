"""Plugins are found through entry points; duplicates and unknown names are refused."""

from importlib import metadata
from types import SimpleNamespace

import pytest

from pai_bench.errors import UserError
from pai_bench.registry import CRITERIA, DATA, MODELS, Registry


def test_the_built_in_collections_come_through_their_groups() -> None:
    for group, module in (("criteria", "pai_criteria"), ("models", "pai_bench.models"), ("data", "pai_bench.data")):
        values = [entry_point.value for entry_point in metadata.entry_points(group=f"pai_bench.{group}")]
        assert module in values
    assert {"random", "magnitude", "snip", "snip-it", "grasp", "synflow"} <= {p.name for p in CRITERIA.plugins()}
    assert MODELS.find("lenet")[0].name == "lenet-5-caffe"
    assert MODELS.find("vgg")[0].name == "vgg-11-bn"
    assert MODELS.find("torchvision:resnet18")[1] == "resnet18"
    assert DATA.find("folder:/a/b:c")[1] == "/a/b:c"


def test_every_plugin_has_a_source_and_a_description() -> None:
    for registry in (CRITERIA, MODELS, DATA):
        for plugin in registry.plugins():
            assert plugin.source
            assert plugin.target.__doc__


def test_duplicates_are_refused_naming_both_modules() -> None:
    registry = Registry("thing", "pai_bench.none")

    def second() -> None: ...

    second.__module__ = "theirs"
    registry.register("a", source="", aliases=("b",))(test_every_plugin_has_a_source_and_a_description)
    for taken in ("a", "b"):
        with pytest.raises(UserError, match=rf"thing '{taken}' is defined twice: in .*test_registry and in theirs"):
            registry.register(taken, source="")(second)


@pytest.mark.parametrize("name", ["lenett", "torchvision:", "torchvision", "lenet-5-cafe"])
def test_unknown_names_get_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown model .* did you mean"):
        MODELS.find(name)


def test_a_plugin_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise ImportError("no module named theirs")

    entry_points = [SimpleNamespace(value="theirs", load=load)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entry_points)
    with pytest.raises(
        UserError, match=r"plugin 'theirs' of pai_bench.none does not load: ImportError: no module named theirs"
    ):
        Registry("thing", "pai_bench.none").plugins()
