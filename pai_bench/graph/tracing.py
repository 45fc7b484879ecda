"""What a network does to an input, as the list of ATen operations that it comes down to.

Module calls and functional calls, attention and recurrent layers all come down to the same few hundred operations, of
which every one is seen; what happens between them in Python is not needed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pai_bench.graph.attention import is_fused_attention, plain_attention
from pai_bench.graph.operations import CHOICES, MOVES, SUMS
from pai_bench.networks.forward import forward
from pai_bench.support.errors import UserError
from pai_bench.support.torch_internals import DispatchMode, OpOverload, overload_name, schema_of, storage_id

Key = tuple[Any, ...]

NORMALISATIONS = (F.rms_norm, F.normalize, F.local_response_norm)
"""Functions that scale every element by a statistic of others, and that torch composes of simpler operations."""


UNSAFE = ("_unsafe_view", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk")
"""Operations whose results are views, though torch does not say so."""


BESIDE = (MOVES | SUMS) - CHOICES
"""Operations that let two values pass beside each other."""

OF_ITSELF = ("glu", "prod", "cumprod")
"""Operations that multiply elements of one tensor with each other."""


def aliases(function: OpOverload) -> bool:
    """Whether an operation gives views of what it takes."""
    return any(value.alias_info is not None for value in schema_of(function).returns)


def key(tensor: Tensor) -> Key:
    """What tells one tensor of a trace from another, all of which are alive: its memory, and how it lies there."""
    return (storage_id(tensor.untyped_storage()), tensor.storage_offset(), tuple(tensor.shape), tensor.stride())


def functional(function: OpOverload, name: str) -> OpOverload:
    """The operation of that name that returns what `function` writes; `function` itself where there is none."""
    packet = getattr(torch.ops.aten, name, None)
    names = [argument.name for argument in schema_of(function).arguments if argument.name != "out"]
    for overload in (overload_name(function), "default", *(packet.overloads() if packet else ())):
        found: OpOverload | None = getattr(packet, overload, None)
        if found is not None and [argument.name for argument in schema_of(found).arguments] == names:
            return found
    return function


@dataclass(frozen=True)
class Operation:
    """One operation, with its arguments by name, defaults included.

    An operation in place has the name and the function of the one that is not.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    results: Sequence[Tensor]
    module: str
    """The innermost module that was running."""
    in_place: bool = False
    is_view: bool = False
    copies_view: bool = False
    """Whether it copies what a view of the same name shows."""
    pointwise: bool = False
    random: bool = False

    @cached_property
    def given(self) -> Sequence[Tensor]:
        """The tensors among the arguments."""
        return list(tensors(list(self.arguments.values())))

    def __str__(self) -> str:
        return f"{self.name} in {self.module!r}" if self.module else self.name


@dataclass(frozen=True)
class Trace:
    """The operations of one forward pass, in order, between its input and its outputs. It keeps all tensors alive."""

    operations: Sequence[Operation]
    input: Tensor
    outputs: Sequence[Tensor]

    @cached_property
    def keys(self) -> Mapping[int, Key]:
        """The keys of all of its tensors, by `id`."""
        found = [self.input, *self.outputs]
        for operation in self.operations:
            found += [*operation.given, *operation.results]
        return {id(tensor): key(tensor) for tensor in found}

    @cached_property
    def has_gates(self) -> bool:
        """Whether a value that depends on the input, and is zero for all data, may stop another one, as in a product.

        None does where values are added, or put beside each other. Memories, not tensors, are followed, so that it is
        sometimes said of a trace in which none can.
        """
        dependent = {key(self.input)[0]}
        for operation in self.operations:
            memories = [self.keys[id(tensor)][0] for tensor in operation.given]
            reached = sum(memory in dependent for memory in memories)
            if (reached > 1 and operation.name not in BESIDE) or (reached and operation.name in OF_ITSELF):
                return True
            if reached:
                dependent |= {self.keys[id(tensor)][0] for tensor in operation.results}
        return False

    @cached_property
    def rewritten(self) -> frozenset[int]:
        """Memories that are written to after they were read, so that what they hold in the end is not what was read."""
        read: set[int] = set()
        found = set()
        for operation in self.operations:
            written = {self.keys[id(tensor)][0] for tensor in operation.results} if operation.in_place else set()
            found |= written & read
            if not operation.is_view:
                read |= {self.keys[id(tensor)][0] for tensor in operation.given} - written
        return frozenset(found)

    def key(self, tensor: Tensor) -> Key:
        """The key of a tensor, also of one that is no part of the trace."""
        return self.keys.get(id(tensor)) or key(tensor)

    def memory(self, tensor: Tensor) -> int:
        """What tells the memory of a tensor from that of others."""
        return int(self.key(tensor)[0])

    @cached_property
    def last_uses(self) -> Sequence[Sequence[Key]]:
        """For each operation, the tensors that neither the ones after it nor the outputs are made of."""
        return last_uses(self.operations, self.outputs, self.key)


def last_uses(
    operations: Sequence[Operation], outputs: Sequence[Tensor], name: Callable[[Tensor], Any]
) -> list[list[Any]]:
    """For each operation, what, by its `name`, neither the ones after it nor the outputs use."""
    last = {name(t): i for i, operation in enumerate(operations) for t in (*operation.given, *operation.results)}
    found: list[list[Any]] = [[] for _ in operations]
    for where in last.keys() - set(map(name, outputs)):
        found[last[where]].append(where)
    return found


def trace(model: nn.Module, example: Tensor) -> Trace:
    """The operations of `model` on `example`. The model is called once, in the state that it is in."""
    recorder, start = Recorder(), example.detach()
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(recorder.entering(name), prepend=True))
        handles.append(module.register_forward_hook(recorder.leaving, always_call=True))
    try:
        with plain_operations(model), WholeFunctions(recorder), recorder:
            output = forward(model, example)
    except Exception as error:
        refuse_failing(model, start, error)
        raise
    finally:
        for handle in handles:
            handle.remove()
    outputs = list(tensors(output))
    if not outputs:
        raise UserError(
            f"{type(model).__name__} returns {type(output).__name__}, in which there is no tensor to be reached"
        )
    return Trace(recorder.operations, start, outputs)


@torch.no_grad()
def refuse_failing(model: nn.Module, example: Tensor, error: Exception) -> None:
    """Refuse a network that does not take the example, traced or not; other errors are not the network's."""
    if isinstance(error, UserError):
        return
    try:
        model(example)
    except Exception as own:
        raise UserError(f"{type(model).__name__} fails on the example: {type(own).__name__}: {own}") from own


@contextmanager
def plain_operations(model: nn.Module) -> Iterator[None]:
    """A block in which attention and recurrent layers do not use fused kernels, which would hide what they do."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.callback(torch.backends.mkldnn.set_flags, torch.backends.mkldnn.set_flags(False)[0])
            stack.callback(setattr, torch.backends.cudnn, "enabled", torch.backends.cudnn.enabled)
            torch.backends.cudnn.enabled = False
        stack.enter_context(torch.no_grad())
        yield


class Recorder(DispatchMode):
    """Writes down the operations that run inside its block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.running: list[str] = [""]
        self.paused = False

    def entering(self, name: str) -> Callable[..., None]:
        """A hook that says that a module runs."""
        return lambda _module, _inputs: self.running.append(name)

    def leaving(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        """A hook that says that it has ended."""
        self.running.pop()

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.paused:
            return func(*args, **(kwargs or {}))
        with self:  # in inference mode, torch leaves to the backend what it composes of simpler operations elsewhere
            if (composed := func.decompose(*args, **(kwargs or {}))) is not NotImplemented:
                return composed
        schema = schema_of(func)
        arguments = {argument.name: argument.default_value for argument in schema.arguments}
        arguments |= dict(zip(arguments, args, strict=False)) | (kwargs or {})
        if is_fused_attention(func):
            with self:
                output = plain_attention(arguments)
            return output, *func(*args, **(kwargs or {}))[1:]
        written = list(
            tensors([arguments[a.name] for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write])
        )
        before = [tensor.detach() for tensor in written]
        result = func(*args, **(kwargs or {}))
        name, function = func.overloadpacket.__name__, func
        if written:
            name = name.removesuffix("_")
            function = functional(func, name)
            arguments.pop("out", None)
        tags = {*func.tags, *getattr(function, "tags", ())}  # not all that work in place are tagged as the others
        copies_view = torch.Tag.view_copy in tags
        turned = False
        for tensor, old in zip(written, before, strict=True):
            if key(tensor) != key(old):  # transposed in place, say: another view of the same memory from here on
                turned, arguments = True, self._as_it_was(arguments, tensor, old)
        self.operations.append(
            Operation(
                name.removesuffix("_copy") if copies_view else name,
                function,
                arguments,
                written if not schema.returns else list(tensors(result)),
                self.running[-1],
                in_place=bool(written) and not turned,
                is_view=turned or (not written and (name in UNSAFE or aliases(func))),
                copies_view=copies_view,
                pointwise=torch.Tag.pointwise in tags,
                random=torch.Tag.nondeterministic_seeded in tags,
            )
        )
        return result

    def _as_it_was(self, arguments: Mapping[str, Any], tensor: Tensor, old: Tensor) -> Any:
        """`arguments`, and what is written down already, with `old` for `tensor`."""

        def change(one: Tensor) -> Tensor:
            return old if one is tensor else one

        self.operations = [
            replace(one, arguments=mapped(one.arguments, change), results=mapped(one.results, change))
            for one in self.operations
        ]
        return mapped(arguments, change)


class WholeFunctions(TorchFunctionMode):
    """Has some functions written down as one operation each, which torch would compose of others."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):  # what follows is not seen
            self.recorder.operations.append(
                Operation("_local_scalar_dense", func, {"self": args[0]}, [], self.recorder.running[-1])
            )
        classes = kwargs.get("num_classes", args[1] if len(args) > 1 else -1) if func is F.one_hot else None
        whole = func in NORMALISATIONS or (classes is not None and classes > 0)
        if not whole or self.recorder.paused:
            return func(*args, **kwargs)
        self.recorder.paused = True
        try:
            result = func(*args, **kwargs)
        finally:
            self.recorder.paused = False
        first = args[0] if args else kwargs["input"]
        if func is F.one_hot:  # which looks at its tokens to see whether they are in range
            name, arguments = "one_hot", {"self": first}
        else:
            dims = normalised(func, args, kwargs)
            name, arguments = "normalisation", {"input": first, "weight": kwargs.get("weight"), "dims": dims}
        self.recorder.operations.append(Operation(name, func, arguments, [result], self.recorder.running[-1]))
        return result


def normalised(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """The dimensions over which one of `NORMALISATIONS` takes its statistics; torch passes their options by name."""
    if func is F.rms_norm:
        return tuple(range(-len(args[1]), 0))
    dim = kwargs.get("dim", 1)
    return (dim,) if isinstance(dim, int) else tuple(dim)


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in what an operation or a network takes or gives."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from tensors(part)


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """What an operation takes or gives, with each tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: mapped(part, change) for name, part in value.items()}
    return [mapped(part, change) for part in value] if isinstance(value, (list, tuple)) else value
