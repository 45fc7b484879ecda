"""The inputs that an attack may choose from: those near an example, within [0, 1]."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Norm = Literal["linf", "l2"]


def norms(difference: Tensor, norm: Norm) -> Tensor:
    """The norm of each example's difference, (N,)."""
    flat = difference.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """A number for each example, (N,), in a shape that is broadcast over `like`, (N, ...)."""
    return values.view(-1, *(1,) * (like.dim() - 1))


@dataclass(frozen=True, eq=False)
class Ball:
    """All inputs in [0, 1] that are at most `eps` from an example, in the maximum norm or the Euclidean one.

    `eps` has the unit of the inputs, and may be a tensor (N,) with a number for each example.
    """

    norm: Norm
    eps: float | Tensor

    def project(self, inputs: Tensor, centres: Tensor) -> Tensor:
        """Each input, or the nearest one in the ball around its centre."""
        eps, difference = self._eps(centres), inputs - centres
        if self.norm == "linf":
            difference = torch.minimum(torch.maximum(difference, -eps), eps)
        else:
            length = per_example(norms(difference, "l2"), inputs)
            difference = difference * (eps / length.clamp_min(torch.finfo(inputs.dtype).tiny)).clamp_max(1.0)
        return (centres + difference).clamp(0.0, 1.0)

    def steepest(self, gradients: Tensor) -> Tensor:
        """The direction of length 1 along which a loss with these gradients grows most; 0 where they are 0 or NaN."""
        if self.norm == "linf":
            return gradients.sign()
        largest = per_example(norms(gradients, "linf"), gradients)  # squares of small gradients would be 0
        scaled = torch.where(largest > 0, gradients / largest, 0.0)
        length = per_example(norms(scaled, "l2"), gradients)
        return torch.where(length > 0, scaled / length, 0.0)

    def step(self, inputs: Tensor, gradients: Tensor, centres: Tensor, length: float) -> Tensor:
        """The inputs after a step of `length`, in units of eps, along the steepest direction, projected."""
        return self.project(inputs + length * self._eps(centres) * self.steepest(gradients), centres)

    def drawn(self, centres: Tensor, places: Tensor, seed: int) -> Tensor:
        """A uniform draw from the ball around each centre; it depends on `seed` and on the example's place alone.

        In the Euclidean norm, of d dimensions, a normal direction with the radius ``eps u^(1/d)``.
        """
        if self.norm == "linf":
            noise = drawn(centres, places, lambda rng, size: rng.uniform(-1, 1, size), (seed,))
        else:
            normal = drawn(centres, places, lambda rng, size: rng.standard_normal(size), (seed,))
            uniform = drawn(centres.flatten(1)[:, :1], places, lambda rng, size: rng.random(size), (seed, 1)).flatten()
            noise = normal * per_example(uniform ** (1 / centres[0].numel()) / norms(normal, "l2"), centres)
        return self.project(centres + self._eps(centres) * noise, centres)

    def at(self, chosen: Tensor) -> "Ball":
        """The balls of some of the examples."""
        return Ball(self.norm, self.eps[chosen]) if isinstance(self.eps, Tensor) else self

    def _eps(self, like: Tensor) -> Tensor:
        eps = torch.as_tensor(self.eps, dtype=like.dtype, device=like.device)
        return per_example(eps, like) if eps.dim() else eps


def drawn(
    like: Tensor, places: Tensor, draw: Callable[[np.random.Generator, tuple[int, ...]], Any], keys: tuple[int, ...]
) -> Tensor:
    """Random numbers for each example, (N, ...), which depend on its place and on `keys` alone."""
    size = tuple(like.shape[1:])
    rows = [draw(np.random.default_rng([*keys, place]), size) for place in places.tolist()]
    return torch.from_numpy(np.stack(rows)).to(like) if rows else torch.empty_like(like)
