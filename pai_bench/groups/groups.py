"""`Groups`, which can be removed from a network, and `GroupMask`, which says which of them stay."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from pai_bench.graph.ties import Axis
from pai_bench.groups.stored import GROUPS, SHRUNK, decode, encode
from pai_bench.masks import Mask
from pai_bench.networks.wrappers import unwrapped
from pai_bench.support import tensor_files
from pai_bench.support.errors import UserError

MASK = "mask of groups"
"""What messages call the file of a `GroupMask`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """The units of a network that can be removed, each with all that is tied to it.

    A **unit** is an output feature or channel of a layer, a hidden unit of a recurrent layer or a head of attention. A
    **group** is the smallest set of slices of parameters and buffers that can be removed together: rows of the layers
    that make the unit (roots), what passes it on by itself (batch norm, depthwise kernels), and the columns of the
    layers that read it (consumers). Groups are numbered from 0, in the order of their first root.
    """

    count: int
    by_axis: Mapping[Axis, Tensor]
    """For each dimension of each parameter and buffer that has groups, the group of every slice; -1 where it is fixed.
    """
    roots: tuple[Axis, ...]
    """Rows of weights, in the network's order; also those that are fixed."""
    consumers: frozenset[Axis]
    biases: Mapping[Axis, Axis]
    """Root axis -> that of the bias which is added to its features."""
    gated: Tensor
    """Of each group (bool), whether its output is not linear in its rows, as of hidden units and heads."""
    rows_per_unit: Mapping[Axis, int]
    """Those roots that count as layers of units, in their order, with the rows of each unit, free or fixed: of hidden
    units and heads several, else 1. Not the network's outputs, nor weights that a recurrent layer multiplies its own
    state with.
    """
    fixed: Mapping[Axis, tuple[str, ...]]
    """Rows of weights, and of what weights are computed from, of which some or all cannot be removed, with the reasons.
    """
    shapes: Mapping[str, torch.Size]
    """Of all parameters and buffers of the network."""
    flops: Mapping[str, float]
    """Weight -> the operations of the products with it, for one example."""
    products: tuple[tuple[Tensor, float], ...]
    """Products of values with values that have groups, as in attention: the groups, and the operations for one example.
    """
    other_flops: float
    """Operations of further products without a weight, for one example."""

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights, those of which nothing can be removed among them, in the network's order."""
        return tuple(name for name in self.shapes if name in self.flops)

    def check(self, model: nn.Module) -> None:
        """Raise UserError for the parameters and buffers of another network."""
        model = unwrapped(model)
        shapes = {name: tensor.shape for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        parameters = {name for name, _ in model.named_parameters()}
        for name in {**self.shapes, **shapes}:
            # other buffers may change in a forward pass, such as those that keep what was computed
            matters = name in parameters or name in self.axes_of or name in self.flops
            if matters and self.shapes.get(name) != shapes.get(name):
                ours, theirs = (shapes_of.get(name) for shapes_of in (self.shapes, shapes))
                raise UserError(f"these are groups of another network: {name!r} has shape {theirs}, not {ours}")

    @cached_property
    def axes_of(self) -> Mapping[str, tuple[Axis, ...]]:
        """Name of a parameter or buffer -> those of its axes that have groups."""
        found: dict[str, tuple[Axis, ...]] = {}
        for axis in self.by_axis:
            found[axis.name] = (*found.get(axis.name, ()), axis)
        return found

    def alike(self, axes: Iterable[Axis]) -> Tensor:
        """For each group, the number of its kind: groups of one kind have as many slices of each of the axes."""
        groups = [of[of >= 0] for axis in axes if (of := self.by_axis.get(axis)) is not None]
        slices = torch.stack([torch.bincount(of, minlength=self.count) for of in groups])
        kinds: Tensor = slices.unique(dim=1, return_inverse=True)[1]
        return kinds

    def all_kept(self) -> "GroupMask":
        """The mask that removes nothing."""
        return GroupMask(self, torch.ones(self.count, dtype=torch.bool))


class GroupMask(Mask):
    """Which groups of a network stay: `kept_groups`, a bool for each, True where it is kept.

    It is also the `Mask` of the network's weights that this gives. `pai_bench.shrink` makes the network really smaller;
    `apply_` sets all removed slices to zero, which gives the same outputs in evaluation mode.
    """

    def __init__(self, groups: Groups, kept: Tensor) -> None:
        if not isinstance(kept, Tensor) or kept.dtype is not torch.bool:
            raise UserError("which groups are kept is a tensor of torch.bool")
        if kept.shape != (groups.count,):
            raise UserError(f"there are {groups.count} groups, but the mask is of shape {tuple(kept.shape)}")
        self.groups, self.kept_groups = groups, kept.cpu()

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:  # type: ignore[override]
        return {name: self.of(name) for name in self.groups.weights}

    def to(self, device: torch.device | str) -> "GroupMask":
        """The same mask, its tensors on `device`."""
        found = copy.copy(self)
        found._tensors = {name: tensor.to(device) for name, tensor in self.items()}
        return found

    def save(self, path: str | Path) -> None:
        """Write the mask to `path` as safetensors, completely or not at all. Missing folders are created.

        The file holds the mask of the weights, as that of a `Mask`, which `Mask.load` reads. Its metadata hold the
        groups, and which of them are kept. Raises `UserError` if `path` cannot be written, or is not a regular file.
        """
        tensor_files.write(path, self, "the mask", {"order": "\n".join(self), **metadata_of(self)})

    @classmethod
    def load(cls, path: str | Path) -> "GroupMask":
        """The mask that `save` wrote to `path`, with its groups; also that of a file of `pai_bench.save_shrunk`.

        Raises `UserError` for a file that cannot be read, and for a mask of single weights.
        """
        tensors, metadata = tensor_files.read(path, MASK)
        found = mask_in(metadata, path, MASK)
        if SHRUNK not in metadata:
            shapes = {name: found.groups.shapes[name] for name in found.groups.weights}
            if {name: tensor.shape for name, tensor in tensors.items()} != shapes or any(
                not torch.equal(tensor, found[name]) for name, tensor in tensors.items()
            ):
                raise tensor_files.unreadable(
                    path, MASK, "its weights are not those of its groups; pai_bench.groups.CombinedMask.load reads both"
                )
        return found

    def __repr__(self) -> str:
        return f"GroupMask({int(self.kept_groups.count_nonzero())} of {self.groups.count} groups)"

    @cached_property
    def by_axis(self) -> Mapping[Axis, Tensor]:
        """For each axis that has groups, which slices stay (bool)."""
        kept = torch.cat([self.kept_groups, torch.ones(1, dtype=torch.bool)])  # -1, the last: fixed
        return {axis: kept[groups] for axis, groups in self.groups.by_axis.items()}

    def of(self, name: str) -> Tensor:
        """What stays of a parameter (bool, of its shape): False in all slices of the groups that are removed."""
        shape = self.groups.shapes[name]
        mask = torch.ones(shape, dtype=torch.bool)
        for axis in self.groups.axes_of.get(name, ()):
            mask &= self.by_axis[axis].view(-1, *(1,) * (len(shape) - 1 - axis.dim))
        return mask

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> nn.Module:
        """Set all slices of the removed groups of `model` to exactly 0.0, in place, and return it.

        Those of biases and of what normalisation scales and shifts by, too. UserError for groups of another network.
        """
        self.groups.check(model)
        weights = {axis.name for axis in (*self.groups.roots, *self.groups.consumers)}
        network = unwrapped(model)
        constant = [(name, buffer) for name, buffer in network.named_buffers() if name in weights]
        for name, tensor in (*network.named_parameters(), *constant):
            if name in self.groups.axes_of:
                tensor.masked_fill_(~self.of(name).to(tensor.device), 0.0)
        return model

    def shrunk(self) -> Mask | None:
        """The mask of the smaller network that `shrink` makes; None, since all that is left there is kept."""
        return None

    def remaining(self) -> Groups:
        """The groups of the smaller network that `shrink` makes, numbered from 0 in the same order."""
        groups = self.groups
        number = torch.full((groups.count + 1,), -1)
        number[:-1][self.kept_groups] = torch.arange(int(self.kept_groups.count_nonzero()))
        shapes = self.shapes()
        return replace(
            groups,
            count=int(self.kept_groups.count_nonzero()),
            by_axis={axis: number[of[self.by_axis[axis]]] for axis, of in groups.by_axis.items()},
            gated=groups.gated[self.kept_groups],
            shapes=shapes,
            flops={n: flops * shapes[n].numel() / groups.shapes[n].numel() for n, flops in groups.flops.items()},
            products=tuple(
                (left, flops * len(left) / len(of))
                for of, flops in groups.products
                if len(left := number[of][self.kept_groups[of]])
            ),
        )

    def shapes(self) -> Mapping[str, torch.Size]:
        """The shapes of the parameters and buffers that are left."""
        found = {}
        for name, shape in self.groups.shapes.items():
            sizes = list(shape)
            for axis in self.groups.axes_of.get(name, ()):
                sizes[axis.dim] = int(self.by_axis[axis].count_nonzero())
            found[name] = torch.Size(sizes)
        return found


def metadata_of(mask: GroupMask) -> dict[str, str]:
    """What files say of the groups of a mask, and of which are kept."""
    return {GROUPS: encode(vars(mask.groups), mask.kept_groups)}


def mask_in(metadata: Mapping[str, str], path: str | Path, what: str) -> GroupMask:
    """The mask that the metadata of the file `path` hold; UserError, which calls the file `what`, if there is none."""
    if GROUPS not in metadata:
        raise tensor_files.unreadable(path, what, "it names no groups; Mask.load reads masks of single weights")
    try:
        fields, kept = decode(metadata[GROUPS])
    except ValueError as error:
        raise tensor_files.unreadable(path, what, error) from error
    return GroupMask(Groups(**fields), kept)
