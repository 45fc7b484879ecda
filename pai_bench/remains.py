"""What a mask leaves of a network: its paths, and the fields of a record that say so."""

import logging
from typing import Any

import torch
from torch import nn

from pai_bench.errors import UserError
from pai_bench.pruning import Connectivity, Mask, prunable_parameters
from pai_bench.pruning.connectivity import connectivity
from pai_bench.pruning.flops import Flops
from pai_bench.store import Layer
from pai_bench.store.bits import pack

logger = logging.getLogger(__name__)


def links_of(model: nn.Module, mask: Mask | None, input_shape: tuple[int, ...]) -> Connectivity | None:
    """What the mask leaves of the network's paths; None for a network that has no paths of its own."""
    mask = Mask.whole(prunable_parameters(model)) if mask is None else mask
    try:
        return connectivity(model, mask, torch.zeros(1, *input_shape), paths=False)
    except UserError as error:  # it does other things for other data, say, and can be trained all the same
        logger.warning("connectivity is not known: %s", error)
        return None


def left_of(model: nn.Module, mask: Mask | None, links: Connectivity | None, work: Flops | None) -> dict[str, Any]:
    """The fields of a record that say what is left; `work` is what the dense network does for one example."""
    weights = prunable_parameters(model)
    sizes = {name: tensor.numel() for name, tensor in (mask or weights).items()}
    kept = mask.kept_per_layer() if mask else sizes
    effective = {layer.name: layer.effective for layer in links.layers} if links else dict.fromkeys(sizes)
    by_weight = work.by_weight if work else {}
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    return {
        "flops": work.total if work else None,
        "mask": pack({name: keep.cpu().numpy() for name, keep in mask.items()}) if mask else None,
        "achieved_sparsity": 1 - sum(kept.values()) / sum(sizes.values()),
        "effective_sparsity": links.effective_sparsity if links else None,
        "connected": links.connected if links else None,
        "dead_layers": tuple(n for n in sizes if n in weights and not (kept[n] if links is None else effective[n])),
        "first_cut": links.first_cut if links else None,
        "severed_shortcuts": links.severed_shortcuts if links else (),
        "layers": tuple(
            Layer(
                name=name,
                size=sizes[name],
                kept=kept[name],
                effective=effective[name],
                shape=shapes.get(name, ()),
                flops=by_weight.get(name, 0) if work else None,
            )
            for name in sizes
        ),
    }
