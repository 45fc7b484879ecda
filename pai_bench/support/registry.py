"""Names to plugins: criteria, models, data sets and what else other packages may add, through entry points.

A plugin collection is a package with one entry point in a group: ``pai_bench.criteria``, ``pai_bench.models``,
``pai_bench.data``, ``pai_bench.schedules``, ``pai_bench.protocols``, ``pai_bench.initialisations``,
``pai_bench.metrics`` or ``pai_bench.backends``. Loading it runs its decorators (`criterion`, `model`, `data_set`,
`schedule`, `protocol`, `initialisation`, `metric`, `backend`), which register names. The built-in collections come in
through the same door.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, TypeVar

from pai_bench.support import files
from pai_bench.support.errors import UserError, unknown
from pai_bench.support.failures import described

T = TypeVar("T")


@dataclass(frozen=True)
class Plugin:
    """One registered name, the object behind it, where its definition stands, and its other names."""

    name: str
    target: Any
    source: str
    aliases: tuple[str, ...] = ()
    version: int | Callable[[tuple[int, ...]], int] = 1
    """Of a network: raised when it changes; a function of the shape of an input where only some of it does."""
    own: bool = False
    """Whether it is a function in a file that is not installed."""
    facts: Any = None
    """Of a data set: the `pai_bench.data.facts.Facts` that are known before it is read."""
    module: str = "?"
    """Where it was registered."""

    def given(self, argument: str) -> Any:
        """The object behind the name; behind a prefix, what it makes of its `argument`."""
        return self.target(argument) if argument else self.target


@dataclass(eq=False)
class Registry(Mapping[str, Any]):
    """The plugins of one kind. A name that ends in ``:`` is a prefix and takes the rest as its argument.

    As a mapping: what is registered by each name, aliases left out, in the order of registration.
    """

    kind: str
    group: str
    home: str = ""
    """The module that registers the built-in ones; without it, an entry point of pai-bench's own does."""
    _plugins: dict[str, Plugin] = field(default_factory=dict)  # by name and by alias
    _loaded: bool = False

    def register(
        self,
        name: str,
        *,
        source: str,
        aliases: tuple[str, ...] = (),
        version: int | Callable[[tuple[int, ...]], int] = 1,
        facts: Any = None,
        module: str | None = None,
    ) -> Callable[[T], T]:
        """A decorator that gives the decorated object `name`; `source` says where its definition stands."""

        def decorate(target: T) -> T:
            home = str(module or getattr(target, "__module__", "?"))
            for key in (name, *aliases):
                if key in self._plugins:
                    first = self._plugins[key].module
                    raise UserError(f"{self.kind} {key!r} is defined twice: in {first} and in {home}")
            plugin = Plugin(name, target, source, aliases, version, facts=facts, module=home)
            self._plugins |= dict.fromkeys((name, *aliases), plugin)
            return target

        return decorate

    def plugins(self) -> list[Plugin]:
        """All plugins, by name."""
        self._load_all()
        return sorted({plugin.name: plugin for plugin in self._plugins.values()}.values(), key=lambda p: p.name)

    def __getitem__(self, name: str) -> Any:
        self._load_all()
        return self._plugins[name].target

    def __iter__(self) -> Iterator[str]:
        self._load_all()
        return (name for name, plugin in self._plugins.items() if name == plugin.name)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _load_all(self) -> None:
        if not self._loaded:
            if self.home:
                importlib.import_module(self.home)
            errors = []
            for entry_point in metadata.entry_points(group=self.group):
                try:
                    entry_point.load()
                except UserError as error:
                    errors.append(error)
                except (Exception, SystemExit) as error:
                    message = f"plugin {entry_point.value!r} of {self.group} does not load: {described(error)}"
                    errors.append(UserError(message))
                    errors[-1].__cause__ = error
            if errors:  # the other collections are there, for `known`
                raise errors[0]
            self._loaded = True

    def known(self) -> list[Plugin]:
        """The plugins of the collections that load, without an error if another one does not."""
        with suppress(UserError):
            return self.plugins()
        return list(self._plugins.values())

    def find(self, name: str) -> tuple[Plugin, str]:
        """The plugin called `name` (or an alias of it) and, behind a prefix, its argument.

        A function in a file, ``./file.py:NAME``, is one too. Its name then holds a hash of its source, so that results
        of another function are not mistaken for its own.
        """
        if not isinstance(name, str):
            raise UserError(f"a {self.kind} is looked up by its name, not by a {type(name).__name__}")
        if "\0" in name:
            raise UserError(f"{name!r} is no {self.kind}: no name may hold a NUL character")
        self._load_all()
        prefix, colon, argument = name.partition(":")
        key = prefix + colon if argument else name
        for spelling in (key, key.replace("_", "-")):
            if spelling in self._plugins and spelling.endswith(":") == bool(argument):
                return self._plugins[spelling], argument
        if (parts := files.split(name, self.kind)) is not None:
            path, function = parts
            target = files.function(path, function, self.kind)
            own_name = f"{function}@{files.digest(path, function)}"
            return Plugin(own_name, target, path.name, version=files.version_of(target), own=True), ""
        raise unknown(self.kind, name, self._plugins)


CRITERIA = Registry("criterion", "pai_bench.criteria")
MODELS = Registry("model", "pai_bench.models")
DATA = Registry("data set", "pai_bench.data")

SCHEDULES = Registry("schedule", "pai_bench.schedules", home="pai_bench.masks.schedule")
PROTOCOLS = Registry("protocol", "pai_bench.protocols", home="pai_bench.training.protocol")
INITIALISATIONS = Registry("initialisation", "pai_bench.initialisations", home="pai_bench.support.initialise")
METRICS = Registry("metric", "pai_bench.metrics", home="pai_bench.evaluation")
BACKENDS = Registry("backend", "pai_bench.backends", home="pai_bench.execution")

REGISTRIES = {
    registry.group.removeprefix("pai_bench."): registry
    for registry in (CRITERIA, MODELS, DATA, SCHEDULES, PROTOCOLS, INITIALISATIONS, METRICS, BACKENDS)
}
"""By the last part of the group, in the plural."""

model, data_set, backend = MODELS.register, DATA.register, BACKENDS.register
initialisation, metric = INITIALISATIONS.register, METRICS.register


def criterion(name: str, *, source: str) -> Callable[[type[T]], type[T]]:
    """Register a criterion class as `name`; the class learns its name and source."""

    def decorate(cls: type[T]) -> type[T]:
        cls.name, cls.source = name, source  # type: ignore[attr-defined]  # this room does not know Criterion
        return CRITERIA.register(name, source=source)(cls)

    return decorate


def schedule(name: str, *, source: str) -> Callable[[type[T]], type[T]]:
    """Register a `pai_bench.masks.Schedule` as `name`; the class learns its name."""

    def decorate(cls: type[T]) -> type[T]:
        cls.name = name  # type: ignore[attr-defined]  # this room does not know Schedule
        return SCHEDULES.register(name, source=source)(cls)

    return decorate


def protocol(name: str, *, source: str) -> Callable[[Callable[[], T]], Callable[[], T]]:
    """Register the `pai_bench.training.protocol.Protocol` that a function returns as `name`, which becomes its own."""

    def decorate(make: Callable[[], T]) -> Callable[[], T]:
        named = dataclasses.replace(make(), name=name)  # type: ignore[type-var]  # this room does not know Protocol
        PROTOCOLS.register(name, source=source, module=make.__module__)(named)
        return make

    return decorate
