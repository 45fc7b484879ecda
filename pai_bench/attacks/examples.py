"""Examples under attack, and what has come of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs in [0, 1], (N, ...), their true labels (N,), and their places among all examples, (N,).

    Random numbers of an example follow from its place: they do not depend on which others are attacked with it.
    `targets` are the classes, (N,), that a targeted attack aims at.
    """

    inputs: Tensor
    labels: Tensor
    places: Tensor
    targets: Tensor | None = None

    @classmethod
    def first(cls, inputs: Tensor, labels: Tensor) -> "Examples":
        """All of some examples, in their order."""
        return cls(inputs, labels, torch.arange(len(labels), device=labels.device))

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, chosen: Tensor) -> "Examples":
        """Those at some indices, or where a mask is true."""
        targets = None if self.targets is None else self.targets[chosen]
        return Examples(self.inputs[chosen], self.labels[chosen], self.places[chosen], targets)

    def chunks(self, size: int) -> Iterator["Examples"]:
        """All of them, so many at once."""
        for indices in torch.arange(len(self), device=self.labels.device).split(size):
            yield self.at(indices)


@dataclass(frozen=True, eq=False)
class Adversaries:
    """For each example an input that an attack has found, and whether it is `fooled`: named as another class."""

    inputs: Tensor
    fooled: Tensor

    @classmethod
    def joined(cls, parts: "list[Adversaries]") -> "Adversaries":
        """Those of several chunks, one after the other."""
        return cls(torch.cat([part.inputs for part in parts]), torch.cat([part.fooled for part in parts]))


class Search:
    """The examples that an iterated attack has not fooled yet, each at its own input; those that are fooled leave.

    `leave` is false where fooled examples stay to the end, which costs more and finds the same.
    """

    def __init__(self, examples: Examples, inputs: Tensor, *, leave: bool = True) -> None:
        self._adversaries = inputs.clone()
        self._fooled = torch.zeros_like(examples.labels, dtype=torch.bool)
        self._leave, self.indices = leave, torch.arange(len(examples), device=examples.labels.device)
        self.examples, self.inputs = examples, inputs

    def __len__(self) -> int:
        return len(self.indices)

    def note(self, fooled: Tensor) -> Tensor | None:
        """Keep the inputs at which examples are fooled for the first time; which of the others stay, None for all."""
        new = fooled & ~self._fooled[self.indices]
        if not bool(new.any()):
            return None
        places = self.indices[new]
        self._adversaries[places], self._fooled[places] = self.inputs[new], True
        if not self._leave:
            return None
        stays = ~new
        self.indices, self.examples, self.inputs = self.indices[stays], self.examples.at(stays), self.inputs[stays]
        return stays

    def result(self) -> Adversaries:
        """What was found of all examples; of those that are not fooled, the last input."""
        stays = ~self._fooled[self.indices]
        self._adversaries[self.indices[stays]] = self.inputs[stays]
        return Adversaries(self._adversaries, self._fooled)
