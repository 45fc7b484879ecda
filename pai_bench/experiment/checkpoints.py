"""Checkpoints of trials: their masks, and the state of their training, as one file."""

import dataclasses
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from pai_bench.experiment.stages import Pruned
from pai_bench.experiment.trial import Trial
from pai_bench.groups import GroupMask
from pai_bench.groups.combined import CombinedMask
from pai_bench.groups.groups import mask_in, metadata_of
from pai_bench.groups.stored import GROUPS
from pai_bench.masks import Mask
from pai_bench.results.checkpoints import CHECKSUM, FORMAT, VALUES, checksum
from pai_bench.support.environment import versions
from pai_bench.support.identity import digest
from pai_bench.support.timing import Measurement
from pai_bench.training.checkpoints import StateError, TrainingState
from pai_bench.training.trainer import Engine

MASK = "mask{}"
"""What the names of a network's masks begin with."""


class CheckpointStore(Protocol):
    """Where checkpoints are kept, by the identities of the trials that are trained together."""

    def write(self, trials: Sequence[str], content: bytes) -> None:
        """Store a checkpoint in place of an earlier one."""

    def read(self, trials: Sequence[str]) -> bytes | None:
        """The checkpoint of exactly these trials, if there is a whole one."""

    def holds(self, trials: Sequence[str]) -> bool:
        """Whether there is a checkpoint of exactly these trials."""

    def remove(self, trials: Sequence[str]) -> None:
        """Remove the checkpoint of exactly these trials, if there is one."""

    def claimed(self, trials: Iterable[str]) -> frozenset[str]:
        """Those of some trials that the process that runs the sweep has claimed."""

    def set_aside(self, trials: Sequence[str], why: str) -> None:
        """Keep a checkpoint from being read again, and say `why`."""


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: masks and their costs, by network, the state of the training, and how it was trained."""

    masks: Sequence[Mask | None]
    costs: Sequence[Measurement | None]
    state: TrainingState
    engine: Engine


def facts(trials: Sequence[Trial], checksums: Sequence[str], device: torch.device) -> dict[str, Any]:
    """What must be the same where training resumes."""
    return {
        "format": FORMAT,
        "trials": [trial.identity for trial in trials],
        "data": list(checksums),
        "networks": [source_of(trial.model.reference) for trial in trials],
        "device": device.type,
        "versions": {name: version for name, version in versions().items() if name in ("pai-bench", "torch")},
    }


def source_of(reference: object) -> str:
    """A hash of the source of what builds a network, if it is not named: a notebook may change it between two runs."""
    if isinstance(reference, str):
        return ""
    try:
        return digest(inspect.getsource(reference))  # type: ignore[arg-type]  # it raises for other objects
    except (OSError, TypeError):
        return ""


def encode(networks: Sequence[Pruned], facts: Mapping[str, Any], engine: Engine, state: TrainingState) -> bytes:
    """The content of the file of a checkpoint."""
    tensors, values = dict(state.tensors), {**facts, "state": dict(state.values), "engine": dataclasses.asdict(engine)}
    for lane, network in enumerate(networks):
        tensors |= {f"{MASK.format(lane)}.{name}": keep for name, keep in (network.mask or {}).items()}
    values["masks"] = [described(network.mask) for network in networks]
    values["costs"] = [cost and dataclasses.asdict(cost) for cost in (network.cost for network in networks)]
    # copies where tensors share memory, which safetensors refuses
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(values, allow_nan=False)
    seen = {name: tensor.reshape(-1).view(torch.uint8).numpy() for name, tensor in whole.items()}
    return safetensors.torch.save(whole, {VALUES: text, CHECKSUM: checksum(seen, text)})


def decode(content: bytes, expected: Mapping[str, Any], device: torch.device) -> Saved:
    """What the content of a file holds; StateError if its facts are not those `expected`."""
    tensors = safetensors.torch.load(content)
    size = int.from_bytes(content[:8], "little")
    values = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][VALUES])
    for name, value in expected.items():
        if values.get(name) != value:
            raise StateError(f"is of another {name.removesuffix('s')}: {values.get(name)}, here {value}")
    state = TrainingState(tensors, values["state"])
    masks = [read_mask(state.part(MASK.format(lane)), one, device) for lane, one in enumerate(values["masks"])]
    costs = [cost and Measurement(**cost) for cost in values["costs"]]
    return Saved(masks, costs, state, Engine(**values["engine"]))


def described(mask: Mask | None) -> dict[str, Any] | None:
    """What a mask has beside its tensors."""
    if mask is None:
        return None
    groups = metadata_of(mask) if isinstance(mask, GroupMask) else {}
    return {"order": list(mask), "combined": isinstance(mask, CombinedMask), **groups}


def read_mask(tensors: Mapping[str, Tensor], described: Mapping[str, Any] | None, device: torch.device) -> Mask | None:
    """The mask of which `described` gave the rest."""
    if described is None:
        return None
    weights = {name: tensors[name] for name in described["order"]}
    if GROUPS not in described:
        return Mask(weights).to(device)
    mask = mask_in(described, "the checkpoint", "mask")
    return (CombinedMask(mask.groups, mask.kept_groups, weights) if described["combined"] else mask).to(device)
