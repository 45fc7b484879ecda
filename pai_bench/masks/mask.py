"""`Mask`: which connections are kept."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pai_bench.masks.application import zero_
from pai_bench.masks.exports import attach, csr
from pai_bench.networks.wrappers import unwrapped
from pai_bench.support import tensor_files
from pai_bench.support.arrays import as_tensor
from pai_bench.support.errors import UserError
from pai_bench.support.transfers import counts


class Mask(Mapping[str, Tensor]):
    """Parameter name -> bool tensor of the parameter's shape, ``True`` where the connection is kept.

    The names are in the order of the model's parameters. The tensors (or arrays) given are not copied, and must not be
    changed. Raises `UserError` for a mask without tensors, and for one that is not of type bool.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        if not tensors:
            raise UserError("a mask needs at least one tensor")
        tensors = {name: as_tensor(tensor, f"the mask of {name!r}") for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            if tensor.dtype is not torch.bool:
                raise UserError(f"the mask of {name!r} has dtype {tensor.dtype}, but must be torch.bool")
        self._tensors = tensors

    @classmethod
    def whole(cls, parameters: Mapping[str, Tensor]) -> "Mask":
        """The mask of `parameters` (name -> tensor) that keeps every connection."""
        return cls({name: torch.ones(p.shape, dtype=torch.bool, device=p.device) for name, p in parameters.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Mask({self.kept} of {self.size} connections in {len(self)} layers, sparsity {self.sparsity:.4f})"

    @property
    def size(self) -> int:
        """Number of connections, kept or not."""
        return sum(tensor.numel() for tensor in self.values())

    @property
    def kept(self) -> int:
        """Number of connections kept."""
        return sum(self.kept_per_layer().values())

    def kept_per_layer(self) -> dict[str, int]:
        """Parameter name -> number of connections kept."""
        return dict(zip(self, counts(self.values()), strict=True))

    @property
    def density(self) -> float:
        """Share of the connections that is kept, in [0, 1]."""
        return self.kept / self.size

    @property
    def sparsity(self) -> float:
        """Share of the connections that is removed: 1 - density."""
        return 1 - self.density

    def to(self, device: torch.device | str) -> "Mask":
        """The same mask on `device`."""
        return Mask({name: tensor.to(device) for name, tensor in self.items()})

    def parameters_of(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters of `model` that this mask covers, by name.

        Raises `UserError` for a name that the model does not have, and for another shape.
        """
        parameters = dict(unwrapped(model).named_parameters())
        for name, tensor in self.items():
            if (parameter := parameters.get(name)) is None:
                raise UserError(f"the mask names {name!r}, which the model does not have")
            if parameter.shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)}, but the parameter has {tuple(parameter.shape)}"
                raise UserError(f"the mask of {name!r} has shape {shapes}")
        return {name: parameters[name] for name in self}

    def apply_(self, model: nn.Module) -> nn.Module:
        """Set the removed weights of `model` to exactly 0.0, in place, and return it.

        Raises `UserError` where `parameters_of` does.
        """
        parameters = self.parameters_of(model)
        zero_(parameters.values(), (~self[name].to(weight.device) for name, weight in parameters.items()))
        return model

    def to_csr(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of `model` that are kept, by name, as sparse matrices of torch (``layout=torch.sparse_csr``).

        A weight of shape (out, ...) becomes a matrix (out, product of the others), as in ``weight.flatten(1)``: of
        convolutions, one row for each channel. One of a single dimension becomes a single row. Each matrix has an
        element for every connection that is kept, also if its weight is zero, and shares no memory with the network.
        Raises `UserError` where `parameters_of` does.
        """
        return {name: csr(weight.detach(), self[name]) for name, weight in self.parameters_of(model).items()}

    def to_torch_prune_(self, model: nn.Module) -> nn.Module:
        """Mask `model` in place, as the functions of ``torch.nn.utils.prune`` do, and return it.

        The parameter ``weight`` of a layer becomes a parameter ``weight_orig`` and a buffer ``weight_mask``; ``weight``
        is their product, computed at each call, so that removed weights stay zero in training.
        ``torch.nn.utils.prune.remove(layer, "weight")`` makes this permanent. Raises `UserError` where `parameters_of`
        does.
        """
        self.parameters_of(model)
        attach(unwrapped(model), self)
        return model

    def save(self, path: str | Path) -> None:
        """Write the mask to `path` as safetensors, completely or not at all. Missing folders are created.

        Raises `UserError` if `path` cannot be written, or is not a regular file.
        """
        tensor_files.write(path, self, "the mask", {"order": "\n".join(self)})

    @classmethod
    def load(cls, path: str | Path) -> "Mask":
        """The mask that `save` wrote to `path`. Raises `UserError` if there is none that can be read."""
        tensors, metadata = tensor_files.read(path, "mask")
        order = metadata.get("order", "").split("\n")
        # safetensors sorts by name, so the model's order is stored as metadata
        names = order if set(order) == set(tensors) else list(tensors)
        try:
            return cls({name: tensors[name] for name in names})
        except UserError as error:  # weights, say
            raise tensor_files.unreadable(path, "mask", error) from error
