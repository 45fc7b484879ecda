"""Plugins are found through entry points; duplicates and unknown names are refused."""

from importlib import metadata
from types import SimpleNamespace

import pytest

from pai_bench.support.errors import UserError
from pai_bench.support.registry import CRITERIA, DATA, MODELS, Registry


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


def test_names_aliases_and_prefixes() -> None:
    registry = Registry("thing", "pai_bench.none")
    one, other = object(), object()
    assert registry.register("a-b", source="here", aliases=("c",), version=3)(one) is one
    registry.register("from:", source="there")(other)
    assert [plugin.name for plugin in registry.plugins()] == ["a-b", "from:"]
    for name in ("a-b", "a_b", "c"):
        plugin, argument = registry.find(name)
        assert (plugin.target, plugin.source, plugin.version, plugin.own, argument) == (one, "here", 3, False, "")
    plugin, argument = registry.find("from:x:y_z")
    assert (plugin.target, plugin.version, argument) == (other, 1, "x:y_z")
    for name, message in (
        ("a-b:x", "unknown thing 'a-b:x'"),
        ("from:", "unknown thing 'from:'"),
        ("d\0", "no thing: no name may hold a NUL character"),
    ):
        with pytest.raises(UserError, match=message):
            registry.find(name)
    with pytest.raises(UserError, match="a thing is looked up by its name, not by a int"):
        registry.find(3)  # type: ignore[arg-type]


def test_collections_are_loaded_once_and_their_own_words_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    entry_points = [SimpleNamespace(value="theirs", load=lambda: loaded.append("theirs"))]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entry_points)
    registry = Registry("thing", "pai_bench.none")
    assert registry.plugins() == registry.plugins() == []
    assert loaded == ["theirs"]

    def refuse() -> None:
        raise UserError("thing 'a' is defined twice")

    def leave() -> None:
        raise SystemExit(3)

    for load, message in (
        (refuse, "^thing 'a' is defined twice$"),
        (leave, "'theirs' of .* does not load: SystemExit: 3"),
    ):
        entry_points[0].load = load
        with pytest.raises(UserError, match=message):
            Registry("thing", "pai_bench.none").plugins()
