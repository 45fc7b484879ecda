"""Sources of the data and the network of a trial: small values, from which another process makes the same objects."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pai_bench.support.errors import UserError
from pai_bench.support.networks import STORED_NAMES

if TYPE_CHECKING:
    from torch import nn

    from pai_bench.data import DataSet
    from pai_bench.models.create import Builder


@dataclass(frozen=True)
class DataSource:
    """A data set: its `name` in results, and what it is loaded by, a name or a `DataSet`."""

    name: str
    reference: "str | DataSet | None" = field(compare=False, repr=False)
    data_dir: str | None = field(default=None, compare=False, repr=False)
    validation: float = 0.0
    """Share of the training set that takes the place of the test set."""
    checksum: str = field(default="", compare=False, repr=False)
    """Of the data set as it was loaded first, which every process is to find."""

    def __getstate__(self) -> dict[str, Any]:
        """Without the data themselves, which no trial takes with it."""
        return {**vars(self), "reference": self.reference if isinstance(self.reference, str) else None}

    def __str__(self) -> str:
        return self.name

    def load(self) -> "DataSet":
        """The data set, with what is held out of it in the place of its test set."""
        from pai_bench.data import load_data

        if self.reference is None:
            raise UserError(f"the data set {self.name} is an object of another process")
        data = load_data(self.reference, data_dir=self.data_dir) if isinstance(self.reference, str) else self.reference
        data = data.held_out(self.validation) if self.validation else data
        if self.checksum not in ("", data.checksum):
            raise UserError("a function of yours makes other data in each process; let it draw by a fixed seed")
        return data


@dataclass(frozen=True)
class ModelSource:
    """A network: its `name` in messages, what builds it, a name or a function, and what is known of it on its data."""

    name: str
    reference: "str | Builder" = field(compare=False, repr=False)
    version: int = 1
    """Raised when the network changes (`pai_bench.support.networks`)."""
    traced: tuple[str, ...] = ()
    """Its weights outside of the usual layers (`pai_bench.scoring.prunable.traced_parameters`)."""
    unclear: tuple[str, ...] = field(default=(), compare=False)
    """Parameters from which weights may be computed, and which are not scored."""
    builder: "Builder | None" = field(default=None, compare=False, repr=False)
    """The function that builds it, once it was looked up; another process looks it up again."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "builder": None}

    def __str__(self) -> str:
        return self.name

    @property
    def stored_name(self) -> str:
        """Its name in stored results."""
        return STORED_NAMES.get(self.name, self.name)

    @property
    def is_own(self) -> bool:
        """Whether it is one of pai-bench's own, which does not end the process that runs it."""
        return ":" not in self.name and getattr(self.load_builder(), "__module__", "").startswith("pai_bench.")

    def load_builder(self) -> "Builder":
        """The function that builds it, looked up once; an error if its file has changed since it was named."""
        from pai_bench.models import find_model

        if self.builder is None:
            name, builder = self.name, self.reference
            if isinstance(builder, str):
                name, builder = find_model(builder)
            if name != self.name:
                raise UserError(f"model {self.name} is another one by now, {name}: its file has changed")
            object.__setattr__(self, "builder", builder)
        assert self.builder is not None
        return self.builder

    def build(self, data: "DataSet", seed: int, init: str) -> "nn.Module":
        """The network for the examples and classes of `data`, with the initial weights of a seed."""
        from pai_bench.models import create_model

        shapes: dict[str, Any] = {"input_shape": data.input_shape, "num_classes": data.num_classes}
        return create_model(self.load_builder(), **shapes, seed=seed, init=init)
