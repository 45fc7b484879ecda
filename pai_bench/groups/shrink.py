"""Networks that are really smaller: without the slices of the groups that were removed."""

import torch
from torch import Tensor, nn

from pai_bench.graph.ties import Axis
from pai_bench.graph.unit_rules import EXTRA_CHANNELS
from pai_bench.groups.groups import GroupMask
from pai_bench.groups.shrunk_layers import shrunk_class
from pai_bench.masks.exports import multiply_again
from pai_bench.networks.private_copy import copied
from pai_bench.networks.wrappers import unwrapped
from pai_bench.support.errors import UserError
from pai_bench.support.torch_internals import ConvBase, NormBase, own_tensors


@torch.no_grad()
def shrink(model: nn.Module, mask: GroupMask) -> nn.Module:
    """A copy of `model` without the groups that `mask` removes.

    Parameters are new, smaller ones under their old names; buffers are sliced, and the attributes of torch's layers
    follow. Single weights that a `CombinedMask` removes besides are zero. In evaluation mode it computes what
    ``mask.apply_(model)`` does. UserError for groups of another network.
    """
    if not isinstance(mask, GroupMask):
        raise UserError(f"shrink takes a GroupMask, which prune gives for a structured criterion, not {mask!r}")
    mask.groups.check(model)
    network = copied(unwrapped(model))
    along = {axis: kept for axis, kept in mask.by_axis.items() if not bool(kept.all())}
    smaller: dict[int, Tensor] = {}
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        sliced = tensor.detach()
        for axis in mask.groups.axes_of.get(name, ()):
            if axis in along:
                sliced = sliced.index_select(axis.dim, along[axis].nonzero().squeeze(1).to(sliced.device))
        if sliced.shape != tensor.shape:
            parameter = isinstance(tensor, nn.Parameter)
            smaller[id(tensor)] = nn.Parameter(sliced, tensor.requires_grad) if parameter else sliced
    touched = set()
    for module in network.modules():
        for tensors in own_tensors(module):
            for key, old in list(tensors.items()):
                if id(old) in smaller:
                    setattr(module, key, smaller[id(old)])
                    touched.add(module)
    for name, module in network.named_modules():
        if module in touched or isinstance(module, nn.MultiheadAttention):  # whose projection is a module of its own
            multiply_again(module)
            resize(module)
        if (padding := along.get(Axis(f"{name}.{EXTRA_CHANNELS}", 0))) is not None:
            setattr(module, EXTRA_CHANNELS, int(padding.count_nonzero()))
    return zero_single_(network, mask)


def zero_single_(network: nn.Module, mask: GroupMask) -> nn.Module:
    """Set the single weights of a smaller network to zero that `mask` removes beside its groups, and return it."""
    if (single := mask.shrunk()) is not None:
        single.apply_(network)
    return network


def resize(module: nn.Module) -> None:
    """Let a layer's attributes follow its parameters."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, ConvBase) and module.transposed:
        if module.groups == module.in_channels:  # depthwise
            module.groups = module.weight.shape[0]
        module.in_channels, module.out_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    elif isinstance(module, ConvBase):
        out = module.weight.shape[0]
        if module.groups == module.in_channels > 1 and module.weight.shape[1] == 1:  # depthwise
            module.groups = module.in_channels = out // (module.out_channels // module.groups)
        else:
            module.in_channels = module.weight.shape[1] * module.groups
        module.out_channels = out
    elif isinstance(module, NormBase):
        module.num_features = len(module.running_mean if module.weight is None else module.weight)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        smaller = shrunk_class(module)
        if smaller is not None:
            module.__class__ = smaller
            module.resize()  # type: ignore[operator]
