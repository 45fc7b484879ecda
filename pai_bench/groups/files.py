"""Files of smaller networks: their weights, and the groups that are left."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pai_bench.groups.groups import GroupMask, mask_in, metadata_of
from pai_bench.groups.shrink import shrink
from pai_bench.groups.stored import GROUPS, SHRUNK
from pai_bench.networks.wrappers import unwrapped
from pai_bench.support import tensor_files
from pai_bench.support.environment import versions
from pai_bench.support.errors import UserError

WHAT = "smaller network"
"""What messages call these files."""


def save_shrunk(
    network: nn.Module, mask: GroupMask, path: str | Path, *, origin: Mapping[str, Any] | None = None
) -> None:
    """Write a smaller network, which `shrink` made of `mask`, to `path` as safetensors, completely or not at all.

    * `network`: as `shrink` gave it, or trained since.
    * `origin`: JSON values that say what the dense network is, such as the arguments of `create_model`; for whoever
      reads the file, and for the message of `load_shrunk` if it is given another network.

    The tensors in the file are the network's ``state_dict()``. Its metadata hold, as JSON, the groups and which of them
    are kept (``groups``), and `origin` with the versions of pai-bench and torch (``shrunk``). `load_shrunk` reads it;
    `GroupMask.load` reads the mask. Raises `UserError` if `path` cannot be written, and for another network.
    """
    if not isinstance(mask, GroupMask):
        raise UserError(f"save_shrunk takes the GroupMask by which shrink made the network, not {mask!r}")
    network = unwrapped(network)
    try:
        mask.remaining().check(network)
    except UserError as error:
        raise UserError(f"save_shrunk takes what shrink(model, mask) made, and no other network: {error}") from error
    state = network.state_dict()
    if other := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise UserError(f"{other[0]!r} in the network's state is no tensor, and cannot be written to {path}")
    try:
        facts = {**(origin or {}), "versions": dict(versions())}
        shrunk = json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"the origin of a smaller network is to be of JSON values: {error}") from error
    tensor_files.write(path, state, f"the {WHAT}", {SHRUNK: shrunk, **metadata_of(mask)})


def load_shrunk(path: str | Path, model: nn.Module) -> nn.Module:
    """The smaller network that `save_shrunk`, or ``pai-bench prune --shrink``, wrote to `path`.

    `model` is the dense network, as `create_model` builds it; its weights do not matter, and it does not change. The
    result has the device and the mode of `model`, and bit for bit what the saved network's ``state_dict()`` holds.
    Buffers that this leaves out (``persistent=False``) come from `model`.

    Raises `UserError` for a file that cannot be read or holds a mask, and for one of another network.
    """
    network = unwrapped(model)
    tensors, metadata = tensor_files.read(path, WHAT)
    if SHRUNK not in metadata:
        cure = "it holds a mask, of which pai_bench.shrink(model, pai_bench.GroupMask.load(path)) makes one"
        what = cure if GROUPS in metadata else "it holds a mask of single weights, or weights without a list of groups"
        raise tensor_files.unreadable(path, WHAT, what)
    mask = mask_in(metadata, path, WHAT)
    try:
        mask.groups.check(network)
    except UserError as error:
        raise UserError(f"{path} does not fit the network: {error}{described(metadata[SHRUNK])}") from error
    smaller = shrink(network, mask)
    state = smaller.state_dict()
    for name in {**state, **tensors}:
        found = (state.get(name), tensors.get(name))
        own, stored = ((t.dtype, tuple(t.shape)) if isinstance(t, Tensor) else None for t in found)
        if own != stored:
            raise tensor_files.unreadable(path, WHAT, f"{name!r} is {stored} there, and {own} in the network")
    smaller.load_state_dict(tensors)
    return smaller


def described(text: str) -> str:
    """What the file of a smaller network says of the dense one, for the end of a message."""
    try:
        facts = {name: value for name, value in dict(json.loads(text)).items() if name != "versions"}
    except (TypeError, ValueError, RecursionError):  # of a file that others wrote
        return ""
    named = ", ".join(f"{name} {json.dumps(value)}" for name, value in facts.items())
    return f"; the file is of {named}" if named else ""
