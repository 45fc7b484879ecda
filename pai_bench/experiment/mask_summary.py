"""What a mask leaves of a network: its paths, and the section of a record that says so."""

import logging
from collections.abc import Sequence

from torch import nn

from pai_bench.graph import Connectivity
from pai_bench.graph.flops import Flops
from pai_bench.groups import GroupMask, Groups
from pai_bench.groups.budget import sparsities
from pai_bench.masks import Mask
from pai_bench.results import Layer, Pruning
from pai_bench.results.bits import mask_file, pack

logger = logging.getLogger(__name__)

MOST_REASONS = 3
"""Reasons why a layer is fixed that a record holds: the residual stream of a transformer has one for each norm."""


def summarize_mask(
    model: nn.Module, mask: Mask | None, links: Connectivity | None, flops: Flops | None, weights: Sequence[str]
) -> Pruning:
    """The section of a record about a mask over the prunable `weights`; `flops` are those of the dense network."""
    sizes = {name: model.get_parameter(name).numel() for name in mask or weights}
    kept = mask.kept_per_layer() if mask else sizes
    effective = {layer.name: layer.effective for layer in links.layers} if links else dict.fromkeys(sizes)
    by_weight = flops.by_weight if flops else {}
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    smaller = sparsities(mask) if isinstance(mask, GroupMask) else {}
    kept_places = {name: keep.cpu().numpy() for name, keep in mask.items()} if mask else {}
    return Pruning(
        not_prunable=sum(weight.numel() for weight in model.parameters()) - sum(sizes.values()),
        flops=flops.total if flops else None,
        mask=pack(kept_places) if mask else None,
        whole_mask=mask_file(kept_places),
        achieved_sparsity=1 - sum(kept.values()) / sum(sizes.values()),
        effective_sparsity=links.effective_sparsity if links else None,
        node_sparsity=smaller.get("nodes"),
        weight_sparsity=smaller.get("weights"),
        flop_sparsity=smaller.get("flops"),
        fixed=fixed_layers(mask.groups) if isinstance(mask, GroupMask) else {},
        connected=links.connected if links else None,
        dead_layers=tuple(n for n in sizes if n in weights and not (kept[n] if links is None else effective[n])),
        first_cut=links.first_cut if links else None,
        severed_shortcuts=links.severed_shortcuts if links else (),
        layers=tuple(
            Layer(
                name=name,
                size=sizes[name],
                kept=kept[name],
                effective=effective[name],
                shape=shapes.get(name, ()),
                flops=by_weight.get(name, 0) if flops else None,
            )
            for name in sizes
        ),
    )


def fixed_layers(groups: Groups) -> dict[str, str]:
    """The layers of which some or all units cannot be removed, with the reasons, or the first of many."""
    by_layer: dict[str, dict[str, None]] = {}
    for axis, reasons in groups.fixed.items():
        by_layer.setdefault(axis.name, {}).update(dict.fromkeys(reasons))
    return {
        name: "; ".join([*list(reasons)[:MOST_REASONS], *(["and others"] if len(reasons) > MOST_REASONS else [])])
        for name, reasons in by_layer.items()
    }
