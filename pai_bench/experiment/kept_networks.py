"""Networks that are kept for other trials: parameters, buffers and mask, and what they have cost, as one file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pai_bench.groups import GroupMask, shrink
from pai_bench.groups.groups import mask_in, metadata_of
from pai_bench.masks import Mask
from pai_bench.results.checkpoints import CHECKSUM, DAMAGED, VALUES, check, checksum
from pai_bench.support.errors import UserError

WEIGHTS, MASK = "network.", "mask."
"""What the names of tensors begin with."""

GROUPS = "groups"
"""The key of what is left of the units of a smaller network."""

NAME = "name"
"""The key of the name of a network; files of earlier versions have none."""


class MissingNetworkError(BaseException):
    """Raised for a trial whose network another sweep has removed meanwhile; it is no failure, and makes no record."""


class NetworkStore(Protocol):
    """Where networks are kept, by name."""

    def write(self, name: str, content: bytes) -> None:
        """Keep a network, in place of an earlier one."""

    def read(self, name: str) -> bytes | None:
        """The content of a network's file, if there is one."""


@dataclass(frozen=True)
class Cost:
    """What all trainings up to a network have cost together: how many there were, operations and seconds."""

    trainings: int = 0
    flops: float | None = 0.0
    seconds: float = 0.0

    def plus(self, flops: float | None, seconds: float) -> "Cost":
        """With one more training."""
        total = None if self.flops is None or flops is None else self.flops + flops
        return Cost(self.trainings + 1, total, self.seconds + seconds)


@dataclass(frozen=True)
class KeptNetwork:
    """A network that was kept."""

    tensors: Mapping[str, Tensor]
    """Its parameters and buffers."""
    mask: Mapping[str, Tensor]
    """What of it is left, by parameter; empty if all is, and of a smaller network."""
    cost: Cost
    name: str = ""
    groups: GroupMask | None = None
    """What of the dense network is left in a smaller one; None for a network of its shapes."""

    def load_into(self, model: nn.Module) -> nn.Module:
        """Set the parameters and buffers of a dense network of the same architecture, made smaller where it is so."""
        made = model if self.groups is None else shrink(model, self.groups)
        try:
            made.load_state_dict(dict(self.tensors), strict=True)
        except RuntimeError as error:
            raise UserError(f"the network {self.name} has other parameters than that of its trial") from error
        return made


def encode(model: nn.Module, mask: Mask | None, cost: Cost, name: str) -> bytes:
    """The content of the file of the network called `name`."""
    named = {WEIGHTS + name: tensor for name, tensor in model.state_dict().items()}
    smaller = mask if isinstance(mask, GroupMask) else None
    named |= {} if mask is None or smaller else {MASK + name: kept for name, kept in mask.items()}
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
    text = json.dumps(asdict(cost) | {NAME: name} | ({} if smaller is None else {GROUPS: metadata_of(smaller)}))
    seen = {name: t.reshape(-1).view(torch.uint8).numpy() for name, t in whole.items()}
    return safetensors.torch.save(whole, {VALUES: text, CHECKSUM: checksum(seen, text)})


def decode(content: bytes, name: str, device: torch.device) -> KeptNetwork:
    """The network in a file; UserError if it is damaged."""
    try:
        values = dict(check(content))
        if (other := values.pop(NAME, name)) != name:
            raise ValueError(f"it holds the network {other}")
        stored = values.pop(GROUPS, None)
        groups = None if stored is None else mask_in(stored, name, "a network")
        cost = Cost(**values)
        tensors = {key: tensor.to(device) for key, tensor in safetensors.torch.load(content).items()}
    except (*DAMAGED, safetensors.SafetensorError) as error:
        raise UserError(f"the network {name} is damaged: {error}") from error
    parts = [{k.removeprefix(of): t for k, t in tensors.items() if k.startswith(of)} for of in (WEIGHTS, MASK)]
    return KeptNetwork(parts[0], parts[1], cost, name, groups)
