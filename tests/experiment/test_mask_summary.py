"""What a record says of a mask, by hand: with paths and operations, and without."""

import dataclasses

import pytest
import torch
from torch import nn

from pai_bench.experiment.mask_summary import fixed_layers, summarize_mask
from pai_bench.graph.connectivity import connectivity
from pai_bench.graph.flops import Flops
from pai_bench.groups import Axis, find_groups
from pai_bench.masks import Mask
from pai_bench.results import Layer
from pai_bench.results.bits import unpack

NAMES = ["0.weight", "1.weight"]


def network() -> nn.Module:
    """Six weights and three biases, three weights and one bias."""
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def test_without_paths_and_operations() -> None:
    first = torch.tensor([[True, False], [False, True], [False, False]])
    mask = Mask({"0.weight": first, "0.bias": torch.zeros(3).bool(), "1.weight": torch.zeros(1, 3).bool()})
    found = summarize_mask(network(), mask, None, None, NAMES)
    assert found.not_prunable == 1
    assert found.achieved_sparsity == 1 - 2 / 12
    assert unpack(found.mask or "", 12).nonzero()[0].tolist() == [0, 3]
    assert found.dead_layers == ("1.weight",)  # biases are no layer
    for key in ("whole_mask", "flops", "effective_sparsity", "connected", "first_cut"):
        assert getattr(found, key) is None
    assert found.severed_shortcuts == ()
    sizes: list[tuple[str, int, int, tuple[int, ...]]] = [
        ("0.weight", 6, 2, (3, 2)),
        ("0.bias", 3, 0, (3,)),
        ("1.weight", 3, 0, (1, 3)),
    ]
    assert found.layers == tuple(Layer(name=n, size=s, kept=k, shape=shape) for n, s, k, shape in sizes)


def test_with_paths_and_operations() -> None:
    """The only output hangs on the second unit, to which one of two weights leads; the third unit leads nowhere."""
    masks = {"0.weight": torch.tensor([[True, True], [True, False], [True, True]])}
    masks["1.weight"] = torch.tensor([[False, True, False]])
    model, mask = network(), Mask(masks)
    links = connectivity(model, mask, torch.zeros(1, 2))
    found = summarize_mask(model, mask, links, Flops(18, {"0.weight": 12}, {"0.weight": 12.0}), NAMES)
    assert (found.flops, found.connected, found.dead_layers) == (18, True, ())
    assert found.achieved_sparsity == pytest.approx(1 - 6 / 9)
    assert found.effective_sparsity == pytest.approx(1 - 2 / 9)
    assert [(one.kept, one.effective, one.flops) for one in found.layers] == [(5, 1, 12), (1, 1, 0)]
    cut = Mask(masks | {"1.weight": torch.zeros(1, 3).bool()})
    found = summarize_mask(model, cut, connectivity(model, cut, torch.zeros(1, 2)), None, NAMES)
    assert (found.connected, found.first_cut, found.dead_layers) == (False, "1.weight", tuple(NAMES))


def test_the_dense_network_keeps_everything() -> None:
    model = network()
    whole = Mask.whole({name: model.get_parameter(name) for name in NAMES})
    found = summarize_mask(model, None, connectivity(model, whole, torch.zeros(1, 2)), None, NAMES)
    assert (found.mask, found.achieved_sparsity, found.effective_sparsity) == (None, 0.0, 0.0)
    assert [(one.kept, one.effective) for one in found.layers] == [(6, 6), (3, 3)]
    assert found.not_prunable == 4


def test_what_is_fixed_is_named_with_the_first_reasons() -> None:
    model = network()
    groups = find_groups(model, torch.zeros(1, 2))
    found = summarize_mask(model, groups.all_kept(), None, None, NAMES)
    assert found.fixed.keys() == {"1.weight"}
    assert found.fixed["1.weight"].startswith("the network's output")
    fixed = {Axis("a", 0): ("x", "y"), Axis("a", 1): ("y", "z"), Axis("b", 0): ("p", "q", "r", "s", "t")}
    assert fixed_layers(dataclasses.replace(groups, fixed=fixed)) == {"a": "x; y; z", "b": "p; q; r; and others"}
    assert summarize_mask(model, None, None, None, NAMES).fixed == {}
