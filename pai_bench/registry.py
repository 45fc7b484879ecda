"""Names to plugins: criteria, models and data sets, found through entry points.

A plugin collection is a package with one entry point in the group ``pai_bench.criteria``, ``pai_bench.models``
or ``pai_bench.data``. Loading it runs its decorators (`criterion`, `model`, `data_set`), which register names.
The built-in collections come in through the same door.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, TypeVar

from pai_bench.errors import UserError, unknown

T = TypeVar("T")
C = TypeVar("C")


@dataclass(frozen=True)
class Plugin:
    """One registered name, the object behind it and where it came from."""

    name: str
    target: Any
    source: str


@dataclass
class Registry:
    """The plugins of one kind. A name that ends in ``:`` is a prefix and takes the rest as its argument."""

    kind: str
    group: str
    _plugins: dict[str, Plugin] = field(default_factory=dict)
    _aliases: dict[str, str] = field(default_factory=dict)
    _loaded: bool = False

    def register(self, name: str, *, source: str, aliases: Iterable[str] = ()) -> Callable[[T], T]:
        """A decorator that gives the decorated object `name`; `source` says where its definition stands."""

        def decorate(target: T) -> T:
            for taken in (name, *aliases):
                if (other := self._plugins.get(self._aliases.get(taken, taken))) is not None:
                    here, there = (getattr(o, "__module__", "?") for o in (target, other.target))
                    raise UserError(f"{self.kind} {taken!r} is defined twice: in {there} and in {here}")
            self._plugins[name] = Plugin(name, target, source)
            self._aliases.update(dict.fromkeys(aliases, name))
            return target

        return decorate

    def plugins(self) -> list[Plugin]:
        """All plugins, by name."""
        if not self._loaded:
            self._loaded = True
            for entry_point in metadata.entry_points(group=self.group):
                try:
                    entry_point.load()
                except Exception as error:
                    if isinstance(error, UserError):
                        raise
                    raise UserError(f"plugin {entry_point.value!r} of {self.group} does not load: {error}") from error
        return [self._plugins[name] for name in sorted(self._plugins)]

    def find(self, name: str) -> tuple[Plugin, str]:
        """The plugin called `name` (or an alias of it) and, behind a prefix, its argument."""
        known = {plugin.name: plugin for plugin in self.plugins()}
        prefix, colon, argument = name.partition(":")
        if colon and argument and prefix + colon in known:
            return known[prefix + colon], argument
        for written in (name, name.replace("_", "-")):
            if (plugin := known.get(self._aliases.get(written, written))) is not None and not name.endswith(":"):
                return plugin, ""
        raise unknown(self.kind, name, [*known, *self._aliases])

    def aliases(self, name: str) -> list[str]:
        """The other names of `name`."""
        return sorted(alias for alias, target in self._aliases.items() if target == name)


CRITERIA = Registry("criterion", "pai_bench.criteria")
MODELS = Registry("model", "pai_bench.models")
DATA = Registry("data set", "pai_bench.data")

model, data_set = MODELS.register, DATA.register


def criterion(name: str, *, source: str) -> Callable[[type[C]], type[C]]:
    """Register a criterion class as `name`; the class learns its name and source."""

    def decorate(cls: type[C]) -> type[C]:
        cls.name, cls.source = name, source  # type: ignore[attr-defined]  # this room does not know Criterion
        return CRITERIA.register(name, source=source)(cls)

    return decorate
