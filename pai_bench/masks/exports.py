"""Masks in the forms of torch: sparse matrices, and parameters as `torch.nn.utils.prune` masks them."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from pai_bench.support.errors import UserError
from pai_bench.support.torch_internals import forward_hooks, own_tensors


def csr(weight: Tensor, mask: Tensor) -> Tensor:
    """What `mask` keeps of `weight`, flattened to two dimensions, as a sparse matrix with a copy of the values."""
    matrix = weight.flatten(1) if weight.dim() > 1 else weight.reshape(1, -1)
    kept = mask.to(weight.device).reshape(matrix.shape)
    ends = kept.sum(1).cumsum(0)
    rows, columns = torch.cat([ends.new_zeros(1), ends]), kept.nonzero()[:, 1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(rows, columns, matrix[kept], matrix.shape, check_invariants=False)


def attach(network: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Let `torch.nn.utils.prune` mask the parameters of these names, wherever modules share them."""
    by_id = {id(network.get_parameter(name)): mask for name, mask in masks.items()}
    places: list[tuple[nn.Module, str, Tensor]] = []
    for module in network.modules():
        parameters, buffers = own_tensors(module)
        for key, parameter in parameters.items():
            if (mask := by_id.get(id(parameter))) is not None and parameter is not None:
                name = key.removesuffix("_orig")
                pruned_before = name != key and f"{name}_mask" in buffers  # torch then combines both masks
                if not pruned_before and (f"{key}_mask" in buffers or f"{key}_orig" in parameters):
                    what = f"{type(module).__name__} has a {key}_mask or {key}_orig of its own"
                    raise UserError(f"{what}, names that torch.nn.utils.prune uses: rename it")
                places.append((module, name if pruned_before else key, mask.to(parameter.device)))
    for module, name, mask in places:
        prune.custom_from_mask(module, name, mask)
    for module in network.modules():
        if isinstance(module, nn.MultiheadAttention) and prune.is_pruned(module.out_proj):
            module.register_forward_pre_hook(mask_projection)


def mask_projection(attention: nn.MultiheadAttention, _inputs: object) -> None:
    """Compute the masked weight of the output projection, which attention reads without calling that layer."""
    multiply_again(attention.out_proj)


def multiply_again(module: nn.Module) -> None:
    """Compute again the weights that `torch.nn.utils.prune` masks, which are neither parameters nor buffers."""
    for hook in list(forward_hooks(module)[1].values()):
        if isinstance(hook, prune.BasePruningMethod):
            hook(module, ())
