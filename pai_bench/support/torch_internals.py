"""The only file that uses names of torch that are not documented: private functions, attributes and classes.

Each entry says what it does and which public name is missing. What happens with a version of torch that lacks it:

* functions (`_function`) raise `AttributeError` when they are called, and not before;
* attributes of objects (`attrgetter`) raise `AttributeError` when they are read;
* classes, and what is imported at the top, raise `ImportError` when this module is imported;
* functions that are defined here say it themselves.

Functions of torch are bound as they are, without a function around them, since some run in every step of training.
What is here is imported with torch itself: this module adds no time to ``import torch``.

Some private names stay outside of this file:

* Names of ATen operations (``_softmax``, say), in `pai_bench.graph`. They are compared with those of a trace. An
  operation whose name is not known is treated by the general rule.
* `Module._get_name`, which `MaskedModel` overrides, so that `class_name` and ``repr`` give the network's.
* `Tensor._base` and the hooks of a module, in the criterion ``synflow``: criteria import only what plug-ins may.
"""

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from operator import attrgetter, methodcaller
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack
from torch._ops import OpOverload as OpOverload
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode


def _function(path: str) -> Any:
    """The function at `path` inside torch; one that raises `AttributeError` where this torch has none."""
    try:
        return attrgetter(path)(torch)
    except AttributeError:

        def missing(*_args: Any, **_kwargs: Any) -> Any:
            raise AttributeError(f"torch {torch.__version__} has no torch.{path}")

        return missing


# Classes. `OpOverload` is that of the operations which `__torch_dispatch__` is given, and `TorchDispatchMode` the base
# of the modes that are given them: the documentation explains both, but no public module has them.

BatchNormBase = _BatchNorm
"""Base of all batch norms. The public classes are one for each number of dimensions."""

NormBase = _NormBase
"""Base of batch norms and instance norms, which have no public one."""

ConvBase = _ConvNd
"""Base of all convolutions, transposed ones included. The public classes are one for each number of dimensions."""

DropoutBase = _DropoutNd
"""Base of all dropouts. The public classes are one for each number of dimensions."""


class DispatchMode(TorchDispatchMode):
    """A `TorchDispatchMode` that does not import ``torch._dynamo``, which takes two seconds, at the first operation.

    No public setting says so. A torch that does not ask `_should_skip_dynamo` ignores it.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


# Operations and memory

schema_of: Callable[[OpOverload], Any] = attrgetter("_schema")
"""Arguments and results of an operation, and which of them it writes to. Operations have no public schema."""

overload_name: Callable[[OpOverload], str] = attrgetter("_overloadname")
"""Which overload an operation is: ``Tensor``, say. Its public name has that of the operation in it, too."""

storage_id: Callable[[torch.UntypedStorage], int] = attrgetter("_cdata")
"""The identity of a storage. ``data_ptr()`` is 0 for every empty storage, and ``id`` is that of a Python object."""

version_counter: Callable[[Tensor], int] = attrgetter("_version")
"""How often a tensor was written to in place. Nothing public counts it."""

lazy_clone: Callable[[Tensor], Tensor] = _function("_lazy_clone")
"""A copy of a tensor that shares its memory until one of the two is written to; ``clone`` copies at once.

Raises `RuntimeError` for memory that torch has not allocated itself.
"""

is_lazy_clone: Callable[[Tensor], bool] = _function("_C._is_cow_tensor")
"""Whether a tensor shares its memory until it is written to. No public name tells."""

foreach_mul_: Callable[[Sequence[Tensor], Sequence[Tensor] | Tensor], None] = _function("_foreach_mul_")
"""Multiply many tensors in place by as many others, or by one, in few kernels. Public functions take one tensor."""

foreach_norm: Callable[[Sequence[Tensor]], tuple[Tensor, ...]] = _function("_foreach_norm")
"""The Euclidean norms of many tensors, in few kernels. Public functions take one tensor."""


def decomposed(operation: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """The results of an operation, by torch's own decomposition of it into simpler ones.

    `OpOverload.decompose` knows only operations that are composite by themselves. Raises `KeyError` for an operation
    without a decomposition, and `AttributeError` on a torch without ``torch._decomp``.
    """
    return torch._decomp.get_decompositions([operation])[operation](*args, **kwargs)


def plain_attention(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Attention as products and a softmax, with its weights, however fused kernels are set.

    `F.scaled_dot_product_attention` chooses a kernel itself. Raises `AttributeError` on a torch without the operation.
    """
    found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_attention_math.default.decompose(*args, **kwargs)
    return found


# Attributes of modules, in which they keep their parameters, buffers, modules and hooks

REGISTRIES = ("_parameters", "_buffers", "_modules")
"""Attributes that hold what is registered, by name. Needed where attributes themselves are copied or shared."""

NON_PERSISTENT_BUFFERS = "_non_persistent_buffers_set"
"""The attribute that holds the names of buffers which are not saved. No public method tells them."""

COMPILED_CALL = "_compiled_call_impl"
"""The attribute that is called in place of a module's own code, as `nn.Module.compile` and `intercept_calls` set it."""

REGISTERED_TENSORS = ("_parameters", "_buffers")
"""Attributes of a module: its parameters and its buffers, by name."""

RNN_WEIGHT_LISTS = ("_flat_weights", "_flat_weight_refs")
"""Attributes in which recurrent layers keep their parameters once more; every functional call leaves other ones."""

own_parameters: Callable[[nn.Module], dict[str, nn.Parameter | None]] = attrgetter("_parameters")
"""Parameters of a module itself. ``named_parameters`` leaves out the second name of a parameter, and takes longer."""

own_buffers: Callable[[nn.Module], dict[str, Tensor | None]] = attrgetter("_buffers")
"""Buffers of a module itself, to be replaced there. A public assignment is one that the module's class may forbid."""

own_tensors: Callable[[nn.Module], tuple[Mapping[str, Tensor | None], ...]] = attrgetter("_parameters", "_buffers")
"""Both of these."""

forward_hooks: Callable[[nn.Module], tuple[Any, ...]] = attrgetter("_forward_hooks", "_forward_pre_hooks")
"""Hooks that a call of a module runs, after it and before. Public methods only add hooks."""

module_hooks: Callable[[nn.Module], tuple[Any, ...]] = attrgetter(
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
)
"""All kinds of hooks of a module. Public methods only add hooks."""

gradient_hooks: Callable[[Tensor], tuple[Any, ...]] = attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")
"""Hooks on a tensor's gradient, None where there are none. Public methods only add hooks."""

class_name: Callable[[nn.Module], str] = methodcaller("_get_name")
"""The name of a module in its ``repr``: that of its class, or another that the class says. ``repr`` gives more."""


def intercept_calls(module: nn.Module, block: Callable[[], AbstractContextManager[object]]) -> None:
    """Let every call of `module` itself, hooks included, run in a new `block`; copies of it are as without.

    Hooks cannot end a block when the module fails, and a wrapped `forward` would be seen as the network's own. On a
    torch that does not ask for the attribute, calls run without the block.
    """
    own = weakref.ref(module)  # a cycle would keep the network alive

    def call(*args: Any, **kwargs: Any) -> Any:
        with block():
            return own()._call_impl(*args, **kwargs)  # type: ignore[union-attr]

    setattr(module, COMPILED_CALL, call)


def reset_method(module: nn.Module) -> Callable[[], object] | None:
    """The method that draws a module's parameters anew; None without one.

    That of `nn.MultiheadAttention` is private, and there is no public one.
    """
    found: Callable[[], object] | None
    found = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    return found


# torch.compile


def compiled_from(model: nn.Module) -> Any:
    """The module that `torch.compile` has made `model` of; None for another one.

    Nothing public gives it. On a torch that calls it otherwise, a compiled network is none that is known.
    """
    return getattr(model, "_orig_mod", None)


def compiler_in_use() -> bool:
    """Whether this process has imported the compiler, so that something may be compiled.

    Public functions of `torch.compiler` import it, which takes two seconds. False where it has another name.
    """
    return "torch._dynamo" in sys.modules


# Transforms of torch.func, for which there is no public way to look at a batched tensor from inside of `torch.vmap`

innermost_transform: Callable[[], object | None] = _function("_C._functorch.peek_interpreter_stack")
"""The innermost transform of torch.func that is at work; None outside of all."""

transform_depth: Callable[[], int] = _function("_C._functorch.get_dynamic_layer_stack_depth")
"""How many transforms of torch.func are at work, one inside the other."""

without_innermost_transform: Callable[[], AbstractContextManager[object]] = temporarily_pop_interpreter_stack
"""A block in which the innermost transform is not at work."""

is_batched: Callable[[Tensor], bool] = _function("_C._functorch.is_batchedtensor")
"""Whether `torch.vmap` goes over a dimension of a tensor that is not seen."""

batched_level: Callable[[Tensor], int] = _function("_C._functorch.maybe_get_level")
"""Which of the transforms that are at work a batched tensor belongs to."""

batched_dim: Callable[[Tensor], int] = _function("_C._functorch.maybe_get_bdim")
"""The dimension of `batched_values` that is not seen; -1 for a tensor that is not batched."""

batched_values: Callable[[Tensor], Tensor] = _function("_C._functorch.get_unwrapped")
"""A batched tensor with the dimension that is not seen."""

add_batch_dim: Callable[[Tensor, int, int], Tensor] = _function("_C._functorch._add_batch_dim")
"""The batched tensor of some values, a dimension and a level."""

set_vmap_fallback_warning: Callable[[bool], None] = _function("_C._functorch._set_vmap_fallback_warning_enabled")
"""Set whether `torch.vmap` warns of operations that it has no rule for. No public setting says so."""

# Precision. `torch.backends` has a property for each backend and operation; these take the two as arguments.

get_fp32_precision: Callable[[str, str], str] = _function("_C._get_fp32_precision_getter")
"""How factors of an operation of a backend are rounded: ``ieee``, ``tf32``, ``bf16``, or ``none`` without a setting."""

set_fp32_precision: Callable[[str, str, str], object] = _function("_C._set_fp32_precision_setter")
"""Set how the factors of an operation of a backend are rounded."""

# Memory of CUDA devices

clear_cublas_workspaces: Callable[[], None] = _function("_C._cuda_clearCublasWorkspaces")
"""Give back the workspaces that cuBLAS keeps for each stream. ``empty_cache`` leaves them."""


def release_failed_pool(device: int, pool: Any) -> None:
    """Give back the memory `pool` of a CUDA graph whose recording has failed. ``CUDAGraph.reset`` does not do it.

    Raises `AttributeError` on a torch without the functions, such as one without CUDA.
    """
    for undo in (torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool):
        with suppress(RuntimeError):  # the recording failed before or after what is undone here
            undo(device, pool)


def changes_in_place(tensor: Tensor) -> int:
    """How many times a tensor was changed in place; those who share its memory count, too."""
    return tensor._version
