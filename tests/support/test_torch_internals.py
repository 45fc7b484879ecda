"""What torch does not document: each private name that is used does what it is used for."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.support import torch_internals as internals


def test_a_function_that_torch_does_not_have_fails_when_it_is_called() -> None:
    missing = internals._function("_C._functorch.no_such_function")
    with pytest.raises(AttributeError, match=r"torch \S+ has no torch\._C\._functorch\.no_such_function"):
        missing(1)


def test_functions_are_those_of_torch_themselves() -> None:
    assert internals.foreach_mul_ is torch._foreach_mul_
    assert internals.foreach_norm is torch._foreach_norm
    assert internals.lazy_clone is torch._lazy_clone


def test_where_a_module_keeps_its_parameters_and_buffers() -> None:
    layer = nn.BatchNorm1d(2)
    parameters, buffers = (vars(layer)[name] for name in internals.REGISTERED_TENSORS)
    assert parameters == dict(layer.named_parameters())
    assert list(buffers) == [name for name, _ in layer.named_buffers()]


def test_changes_in_place_are_counted() -> None:
    tensor = torch.zeros(4)
    before = internals.changes_in_place(tensor)
    _ = tensor + 1
    assert internals.changes_in_place(tensor) == before
    tensor.add_(1)
    assert internals.changes_in_place(tensor) == before + 1
    tensor[:2].mul_(2)
    assert internals.changes_in_place(tensor) == before + 2


@pytest.mark.slow
def test_importing_it_does_not_import_the_compiler() -> None:
    code = (
        "import sys, pai_bench.support.torch_internals as t; print('torch._dynamo' in sys.modules, t.compiler_in_use())"
    )
    code += "; import torch._dynamo; print(t.compiler_in_use())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False", "True"]


def test_bases_of_layers() -> None:
    assert all(issubclass(layer, internals.BatchNormBase) for layer in (nn.BatchNorm1d, nn.SyncBatchNorm))
    assert not issubclass(nn.InstanceNorm2d, internals.BatchNormBase)
    assert all(issubclass(layer, internals.NormBase) for layer in (nn.BatchNorm1d, nn.InstanceNorm2d))
    assert all(issubclass(layer, internals.ConvBase) for layer in (nn.Conv1d, nn.ConvTranspose3d))
    assert all(issubclass(layer, internals.DropoutBase) for layer in (nn.Dropout, nn.Dropout2d, nn.AlphaDropout))


class Seen(internals.DispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[internals.OpOverload] = []

    def __torch_dispatch__(self, func: internals.OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(func)
        return func(*args, **(kwargs or {}))


def test_a_mode_sees_operations() -> None:
    with (seen := Seen()):
        torch.ones(2).add_(1)
    assert isinstance(seen, internals.TorchDispatchMode)
    assert all(isinstance(operation, internals.OpOverload) for operation in seen.operations)
    assert seen.operations[-1].overloadpacket is torch.ops.aten.add_


def test_a_mode_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch\nfrom pai_bench.support.torch_internals import DispatchMode\n"
        "class Mode(DispatchMode):\n"
        "    def __torch_dispatch__(self, func, types, args=(), kwargs=None): return func(*args, **(kwargs or {}))\n"
        "with Mode(): torch.ones(2) + 1\n"
        "print('torch._dynamo' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_the_schema_of_an_operation() -> None:
    schema = internals.schema_of(torch.ops.aten.add_.Tensor)
    assert [argument.name for argument in schema.arguments] == ["self", "other", "alpha"]
    assert [bool(argument.alias_info and argument.alias_info.is_write) for argument in schema.arguments] == [1, 0, 0]
    assert schema.arguments[2].default_value == 1
    assert schema.arguments[2].kwarg_only
    assert schema.returns[0].alias_info is not None
    assert internals.overload_name(torch.ops.aten.add_.Tensor) == "Tensor"
    assert internals.overload_name(torch.ops.aten.relu.default) == "default"


def test_views_have_the_storage_of_what_they_show() -> None:
    x, empty, other = torch.ones(4), torch.empty(0), torch.empty(0)

    def identity(tensor: Tensor) -> int:
        return internals.storage_id(tensor.untyped_storage())

    assert identity(x) == identity(x[1:]) == identity(x.detach())
    assert len({identity(x), identity(empty), identity(other), identity(x.clone())}) == 4


def test_writing_in_place_counts() -> None:
    x = torch.ones(2)
    before = internals.version_counter(x)
    x.add_(1)
    x[0] = 3
    assert internals.version_counter(x) == before + 2


def test_a_lazy_clone_shares_memory_until_one_is_written_to() -> None:
    x = torch.ones(4)
    assert not internals.is_lazy_clone(x)
    y = internals.lazy_clone(x)
    assert internals.is_lazy_clone(x)
    assert internals.is_lazy_clone(y)
    y.add_(1)
    assert not internals.is_lazy_clone(y)
    assert x.tolist() == [1, 1, 1, 1]
    assert y.tolist() == [2, 2, 2, 2]


def test_foreign_memory_has_no_lazy_clone() -> None:
    with pytest.raises(RuntimeError):
        internals.lazy_clone(torch.frombuffer(bytearray(16), dtype=torch.float32))


def test_functions_of_many_tensors_equal_the_loop() -> None:
    torch.manual_seed(0)
    xs, factors = [torch.randn(2, 3), torch.randn(5)], [torch.randn(2, 3), torch.randn(5)]
    assert torch.equal(torch.stack(internals.foreach_norm(xs)), torch.stack([x.norm() for x in xs]))
    by_tensor, by_one = [x.clone() for x in xs], [x.clone() for x in xs]
    internals.foreach_mul_(by_tensor, factors)
    internals.foreach_mul_(by_one, torch.tensor(3.0))
    for x, factor, product, triple in zip(xs, factors, by_tensor, by_one, strict=True):
        assert torch.equal(product, x * factor)
        assert torch.equal(triple, x * 3)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
def test_decompositions_of_recurrent_layers(name: str) -> None:
    torch.manual_seed(0)
    kind: Any = {"lstm": nn.LSTM, "gru": nn.GRU}.get(name, nn.RNN)
    # in single precision, that of an LSTM is a layer of oneDNN
    layer = kind(3, 4, **({"nonlinearity": name[4:]} if kind is nn.RNN else {})).double()
    x, h = torch.randn(5, 2, 3).double(), torch.zeros(1, 2, 4).double()
    state: Any = [h, h] if name == "lstm" else h
    weights = list(layer.parameters())
    given = (x, state, weights, True, 1, 0.0, True, False, False)
    with (seen := Seen()):
        found = internals.decomposed(getattr(torch.ops.aten, name).input, *given)
    torch.testing.assert_close(found[0], layer(x)[0])
    assert not {name, "mkldnn_rnn_layer"} & {one.overloadpacket.__name__ for one in seen.operations}


def test_an_operation_without_a_decomposition() -> None:
    with pytest.raises(KeyError):
        internals.decomposed(torch.ops.aten.mm.default, torch.ones(1, 1), torch.ones(1, 1))


def test_plain_attention() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 5, 6)
    output, weights = internals.plain_attention(q, k, v, None, 0.0, True)
    torch.testing.assert_close(output, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    torch.testing.assert_close(weights @ v, output)
    assert not weights.triu(1).any()


def test_what_modules_register() -> None:
    norm = nn.BatchNorm1d(2)
    norm.register_buffer("own", torch.ones(1), persistent=False)
    assert set(internals.own_parameters(norm)) == {"weight", "bias"}
    assert set(internals.own_buffers(norm)) == {"running_mean", "running_var", "num_batches_tracked", "own"}
    parameters, buffers = internals.own_tensors(norm)
    assert parameters is internals.own_parameters(norm)
    assert buffers is internals.own_buffers(norm)
    internals.own_buffers(norm)["own"] = torch.zeros(1)
    assert norm.get_buffer("own").item() == 0
    assert vars(norm)[internals.NON_PERSISTENT_BUFFERS] == {"own"}
    network = nn.Sequential(norm)
    assert [len(vars(network)[name]) for name in internals.REGISTRIES] == [0, 0, 1]


def test_lists_of_the_weights_of_recurrent_layers() -> None:
    layer = nn.GRU(2, 3)
    weights, references = (vars(layer)[name] for name in internals.RNN_WEIGHT_LISTS)
    assert list(map(id, weights)) == list(map(id, layer.parameters()))
    assert [id(reference()) for reference in references] == list(map(id, weights))


def test_hooks() -> None:
    layer = nn.Linear(1, 1)
    assert not any(internals.module_hooks(layer))
    layer.register_forward_hook(lambda *_: None)
    layer.register_forward_pre_hook(lambda *_: None)
    layer.register_forward_pre_hook(lambda *_: None)
    layer.register_full_backward_hook(lambda *_: None)
    assert [len(hooks) for hooks in internals.forward_hooks(layer)] == [1, 2]
    assert [len(hooks) for hooks in internals.module_hooks(layer)] == [1, 2, 1, 0]
    layer.register_full_backward_pre_hook(lambda *_: None)
    assert len(internals.module_hooks(layer)[3]) == 1


def test_hooks_on_gradients() -> None:
    layer = nn.Linear(1, 1)
    assert not any(internals.gradient_hooks(layer.weight))
    layer.weight.register_hook(lambda gradient: gradient)
    layer.bias.register_post_accumulate_grad_hook(lambda _: None)
    assert [bool(hooks) for hooks in internals.gradient_hooks(layer.weight)] == [True, False]
    assert [bool(hooks) for hooks in internals.gradient_hooks(layer.bias)] == [False, True]


def test_the_name_of_a_class() -> None:
    assert internals.class_name(nn.Linear(1, 1)) == "Linear"


def test_calls_run_in_a_block() -> None:
    log: list[str] = []

    @contextmanager
    def block() -> Iterator[None]:
        log.append("begins")
        yield
        log.append("ends")

    layer = nn.Linear(1, 1)
    layer.register_forward_hook(lambda *_: log.append("hook"))
    without = layer(torch.ones(1))
    log.clear()
    internals.intercept_calls(layer, block)
    assert torch.equal(layer(torch.ones(1)), without)
    assert torch.equal(nn.Sequential(layer)(torch.ones(1)), without)
    assert log == ["begins", "hook", "ends"] * 2
    assert internals.COMPILED_CALL in vars(layer)


def test_methods_that_draw_parameters() -> None:
    for layer in (nn.Linear(1, 1), nn.MultiheadAttention(2, 1)):
        reset, before = internals.reset_method(layer), [parameter.clone() for parameter in layer.parameters()]
        assert reset is not None
        reset()
        assert not all(map(torch.equal, before, layer.parameters()))
    assert internals.reset_method(nn.ReLU()) is None


def test_what_a_network_was_compiled_from() -> None:
    layer = nn.Linear(1, 1)
    compiled: Any = torch.compile(layer, backend="eager")
    assert internals.compiled_from(compiled) is layer
    assert internals.compiled_from(layer) is None


def test_transforms_at_work() -> None:
    inside = []

    def function(x: Tensor) -> Tensor:
        inside.append((internals.innermost_transform() is None, internals.transform_depth()))
        with internals.without_innermost_transform():
            inside.append((internals.innermost_transform() is None, internals.transform_depth()))
        return x.sum()

    torch.vmap(function)(torch.ones(2, 3))
    torch.vmap(torch.func.grad(function))(torch.ones(2, 3))
    assert inside == [(False, 1), (True, 0), (False, 2), (False, 1)]
    assert internals.innermost_transform() is None
    assert internals.transform_depth() == 0


def test_batched_tensors() -> None:
    x, shared = torch.arange(24.0).reshape(2, 3, 4), torch.ones(4)

    def function(row: Tensor) -> Tensor:
        assert row.shape == (2, 4)
        assert internals.is_batched(row)
        assert not internals.is_batched(shared)
        assert internals.batched_dim(row) == 1
        level, values = internals.batched_level(row), internals.batched_values(row)
        assert level == 1
        with internals.without_innermost_transform():
            assert torch.equal(values, x)
            doubled = values * 2
        again = internals.add_batch_dim(doubled, 1, level)
        assert again.shape == row.shape
        return again + row

    assert torch.equal(torch.vmap(function, in_dims=1, out_dims=1)(x), 3 * x)


def test_warnings_of_operations_that_vmap_has_no_rule_for() -> None:
    x = torch.ones(2, 3, 3)
    try:
        internals.set_vmap_fallback_warning(True)
        with pytest.warns(UserWarning, match="performance drop"):
            torch.vmap(torch.pdist)(x)
        internals.set_vmap_fallback_warning(False)
        torch.vmap(torch.pdist)(x)  # warnings are errors in tests
    finally:
        internals.set_vmap_fallback_warning(True)


def test_precision_is_read_as_it_is_set() -> None:
    before = internals.get_fp32_precision("mkldnn", "matmul")
    try:
        for precision in ("tf32", "bf16", "ieee"):
            internals.set_fp32_precision("mkldnn", "matmul", precision)
            assert internals.get_fp32_precision("mkldnn", "matmul") == precision
    finally:
        internals.set_fp32_precision("mkldnn", "matmul", before)
    assert internals.get_fp32_precision("mkldnn", "matmul") == before


@pytest.mark.gpu
def test_workspaces_of_cublas_are_given_back() -> None:
    torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    internals.clear_cublas_workspaces()
    assert torch.cuda.memory_allocated() < before


def test_memory_of_failed_recordings_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[object] = []

    def end(device: int, pool: Any) -> None:
        log.append(("end", device, pool))
        raise RuntimeError("not under way")

    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda *given: log.append(("release", *given)), raising=False)
    internals.release_failed_pool(0, "pool")
    assert log == [("end", 0, "pool"), ("release", 0, "pool")]


@pytest.mark.gpu
def test_a_pool_that_is_not_known_is_left_alone() -> None:
    internals.release_failed_pool(0, torch.cuda.graph_pool_handle())
