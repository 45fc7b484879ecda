"""Names to plugins: criteria, models, data sets and backends, found through entry points.

A plugin collection is a package with one entry point in the group ``pai_bench.criteria``, ``pai_bench.models``,
``pai_bench.data`` or ``pai_bench.backends``. Loading it runs its decorators (`criterion`, `model`, `data_set`,
`backend`), which register names. The built-in collections come in through the same door.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, TypeVar

from pai_bench import files
from pai_bench.errors import UserError, unknown
from pai_bench.failures import described

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


@dataclass
class Registry:
    """The plugins of one kind. A name that ends in ``:`` is a prefix and takes the rest as its argument."""

    kind: str
    group: str
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
    ) -> Callable[[T], T]:
        """A decorator that gives the decorated object `name`; `source` says where its definition stands."""

        def decorate(target: T) -> T:
            for taken in (name, *aliases):
                if taken in self._plugins:
                    here, there = (getattr(o, "__module__", "?") for o in (target, self._plugins[taken].target))
                    raise UserError(f"{self.kind} {taken!r} is defined twice: in {there} and in {here}")
            self._plugins |= dict.fromkeys(
                (name, *aliases), Plugin(name, target, source, aliases, version, facts=facts)
            )
            return target

        return decorate

    def plugins(self) -> list[Plugin]:
        """All plugins, by name."""
        if not self._loaded:
            refused: UserError | None = None
            for entry_point in metadata.entry_points(group=self.group):
                try:
                    self._load(entry_point)
                except UserError as error:
                    refused = refused or error
            if refused is not None:  # the other collections are there, for `known`
                raise refused
            self._loaded = True
        return sorted({plugin.name: plugin for plugin in self._plugins.values()}.values(), key=lambda p: p.name)

    def _load(self, entry_point: metadata.EntryPoint) -> None:
        try:
            entry_point.load()
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(
                f"plugin {entry_point.value!r} of {self.group} does not load: {described(error)}"
            ) from error

    def known(self) -> list[Plugin]:
        """The plugins of the collections that load, without an error if another one does not."""
        with suppress(UserError):
            return self.plugins()
        return list(self._plugins.values())

    def find(self, name: str) -> tuple[Plugin, str]:
        """The plugin called `name` (or an alias of it) and, behind a prefix, its argument.

        A function in a file, ``./file.py:NAME``, is one too. Its own name holds a hash of its source, so that no stored
        result of another function is taken for its.
        """
        if not isinstance(name, str):
            raise UserError(f"a {self.kind} is looked up by its name, not by a {type(name).__name__}")
        if "\0" in name:
            raise UserError(f"{name!r} is no {self.kind}: no name may hold a NUL character")
        self.plugins()
        prefix, colon, argument = name.partition(":")
        key = prefix + colon if argument else name
        for written in (key, key.replace("_", "-")):
            if written in self._plugins and written.endswith(":") == bool(argument):
                return self._plugins[written], argument
        if (found := files.split(name, self.kind)) is not None:
            path, function = found
            target = files.function(path, function, self.kind)
            own_name = f"{function}@{files.digest(path, function)}"
            return Plugin(own_name, target, path.name, version=files.version_of(target), own=True), ""
        raise unknown(self.kind, name, self._plugins)


CRITERIA = Registry("criterion", "pai_bench.criteria")
MODELS = Registry("model", "pai_bench.models")
DATA = Registry("data set", "pai_bench.data")
BACKENDS = Registry("backend", "pai_bench.backends")

model, data_set, backend = MODELS.register, DATA.register, BACKENDS.register


def criterion(name: str, *, source: str) -> Callable[[type[T]], type[T]]:
    """Register a criterion class as `name`; the class learns its name and source."""

    def decorate(cls: type[T]) -> type[T]:
        cls.name, cls.source = name, source  # type: ignore[attr-defined]  # this room does not know Criterion
        return CRITERIA.register(name, source=source)(cls)

    return decorate
