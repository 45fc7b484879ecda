"""The arithmetic of a block, whatever was set before by either of torch's two interfaces; and that all is put back."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.analyses.cost import bare
from pai_bench.report.provenance import describe_environment
from pai_bench.results import Environment
from pai_bench.scoring import MaskedModel, Scores
from pai_bench.scoring.masked_model import differentiable
from pai_bench.support.environment import describe
from pai_bench.support.precision import GENERAL, OPERATIONS, Precision, arithmetic, reproducible

CPU = torch.device("cpu")
# some of their properties are not among torch's annotations
backends: Any = torch.backends
cudnn, mkldnn = backends.cudnn, backends.mkldnn
matmul = torch.backends.cuda.matmul


def reading(what: Callable[[], Any]) -> Any:
    """What is read, or the error that reading raises."""
    try:
        return what()
    except RuntimeError as error:
        return str(error)


def seen() -> list[Any]:
    """Everything that is known of precisions and kernels, read as users read it."""
    properties: list[Callable[[], Any]] = [
        lambda: cudnn.allow_tf32,
        lambda: matmul.allow_tf32,
        torch.get_float32_matmul_precision,
        lambda: (cudnn.enabled, cudnn.deterministic, cudnn.benchmark),
        *(lambda key=key: torch._C._get_fp32_precision_getter(*key) for key in (*GENERAL, *OPERATIONS)),
    ]
    return [reading(what) for what in properties]


def inherited() -> list[list[Any]]:
    """`seen` under other general settings: what follows them shows then."""
    found = [seen()]
    for general in ("tf32", "ieee", "none"):
        backends.fp32_precision = general
        found.append(seen())
    return found


def nothing() -> None:
    pass


def older_interface() -> None:
    matmul.allow_tf32, cudnn.allow_tf32 = True, False


def convolutions_in_ieee() -> None:
    cudnn.conv.fp32_precision = "ieee"


def recurrent_in_ieee() -> None:
    cudnn.rnn.fp32_precision = "ieee"


def all_in_tf32() -> None:
    backends.fp32_precision = "tf32"


def everything_follows_tf32() -> None:
    backends.fp32_precision = "tf32"
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = matmul.fp32_precision = "none"


def convolutions_follow_cudnn() -> None:
    cudnn.fp32_precision = "tf32"
    cudnn.conv.fp32_precision = "none"


def bfloat16_on_processors() -> None:
    torch.set_float32_matmul_precision("medium")
    mkldnn.conv.fp32_precision = "bf16"


def both_interfaces() -> None:
    cudnn.allow_tf32 = False
    cudnn.conv.fp32_precision = matmul.fp32_precision = "tf32"


def quick_kernels() -> None:
    cudnn.deterministic, cudnn.benchmark = False, True


SETTINGS = [
    nothing,
    older_interface,
    convolutions_in_ieee,
    recurrent_in_ieee,
    all_in_tf32,
    everything_follows_tf32,
    convolutions_follow_cudnn,
    bfloat16_on_processors,
    both_interfaces,
    quick_kernels,
]


def defaults() -> None:
    """What torch begins with, set by a way that does not depend on what is tested."""
    cudnn.enabled, cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, False, True
    torch.set_float32_matmul_precision("highest")
    for key in (*GENERAL, *OPERATIONS):
        torch._C._set_fp32_precision_setter(*key, "tf32" if key in (("cuda", "conv"), ("cuda", "rnn")) else "none")


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    defaults()
    yield
    defaults()


@pytest.fixture
def _with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that uses a CUDA device: then a block sets everything, on a processor, too."""
    monkeypatch.setattr("pai_bench.support.precision.cuda_in_use", lambda: True)


def check_block(precision: Precision) -> None:
    """Assert that every product is computed in `precision`, by either interface."""
    rounded = precision == "tf32"
    for backend, op in OPERATIONS:
        found = torch._C._get_fp32_precision_getter(backend, op)
        assert found == ("tf32" if rounded and backend == "cuda" else "ieee"), (backend, op)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (rounded, rounded)
    assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")
    assert (cudnn.deterministic, cudnn.benchmark) == (True, False)


@pytest.mark.usefixtures("_with_cuda")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_block_has_its_precision_and_leaves_what_was_set(setting: Callable[[], None], precision: Precision) -> None:
    setting()
    before = seen()
    with arithmetic(precision, CPU):
        check_block(precision)
        with arithmetic("fp32", CPU):
            check_block("fp32")
        check_block(precision)
    assert seen() == before


@pytest.mark.usefixtures("_with_cuda")
@pytest.mark.parametrize("setting", SETTINGS)
def test_what_followed_a_general_setting_follows_it_afterwards(setting: Callable[[], None]) -> None:
    setting()
    expected = inherited()
    defaults()
    setting()
    with pytest.raises(KeyError), arithmetic("fp32", CPU):
        raise KeyError
    assert inherited() == expected


class _Asserting(torch.autograd.Function):
    """The identity, which must be computed in single precision, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, passes: list[str]) -> Tensor:
        check_block("fp32")
        passes.append("forward")
        ctx.passes = passes
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        check_block("fp32")
        ctx.passes.append("backward")
        return gradients[0], None


class Asserting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.passes = nn.Conv2d(1, 2, 3), nn.Linear(2, 3), list[str]()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(_Asserting.apply(self.conv(x), self.passes).mean((2, 3)))
        return logits

    def __deepcopy__(self, memo: dict[int, Any]) -> "Asserting":
        memo[id(self.passes)] = self.passes  # one list for all copies
        copied = Asserting.__new__(Asserting)
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied


@dataclass(frozen=True)
class Formula(pb.Criterion):
    """Asserts in the formula and in the preparation."""

    def prepare(self, model: nn.Module) -> None:
        check_block("fp32")

    def score(self, model: MaskedModel, batch: pb.Batch) -> Scores:
        check_block("fp32")
        return model.saliencies(batch, self.one)

    def one(self, weight: Tensor, gradient: Tensor, value: Tensor) -> Tensor:
        check_block("fp32")
        return gradient


@pytest.mark.usefixtures("_with_cuda")
@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow", Formula()])
@pytest.mark.parametrize("setting", SETTINGS)
def test_scores_and_their_floor_are_in_single_precision(
    setting: Callable[[], None], criterion: str | pb.Criterion
) -> None:
    model, batch = Asserting(), pb.Batch(torch.randn(4, 1, 5, 5), torch.tensor([0, 1, 2, 0]))
    chosen = pb.get_criterion(criterion)
    setting()
    before = seen()
    chosen.score(model, batch)
    assert set(model.passes) == {"forward", "backward"}
    model.passes.clear()
    bare(model, batch, chosen)()
    assert model.passes == ["forward", "backward"]
    assert seen() == before


def processors() -> list[str]:
    """How products on a processor are rounded."""
    return [torch._C._get_fp32_precision_getter(backend, op) for backend, op in OPERATIONS if backend == "mkldnn"]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_on_processors_alone_products_are_in_single_precision(
    setting: Callable[[], None], precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no CUDA device is in use, what only such a device reads may stay as it is."""
    monkeypatch.setattr("pai_bench.support.precision.cuda_in_use", lambda: False)
    setting()
    before = seen()
    with arithmetic(precision, CPU):
        assert set(processors()) <= {"ieee", "none"}
    assert seen() == before


def test_nothing_is_set_where_nothing_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small score would notice: setting everything takes 50 microseconds."""
    written: list[object] = []
    monkeypatch.setattr("pai_bench.support.precision.cuda_in_use", lambda: False)
    monkeypatch.setattr("pai_bench.support.precision._Settings.write", lambda settings: written.append(settings))
    with arithmetic("fp32", CPU), reproducible(CPU):
        pass
    assert not written
    with arithmetic("fp32", torch.device("cuda")):  # which may be used for the first time in this block
        pass
    assert len(written) == 2


def fused() -> list[bool]:
    """Which fused kernels attention may use."""
    cuda = backends.cuda
    return [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()]


def test_attention_on_a_gpu_is_computed_in_one_order_while_scoring() -> None:
    before = fused()
    assert any(before)
    with reproducible(torch.device("cuda")):
        assert not any(fused())
        assert backends.cuda.math_sdp_enabled()
    assert fused() == before
    with reproducible(CPU):  # whose kernels have one order
        assert fused() == before


def test_a_record_from_a_gpu_says_which_kernels_were_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "kernels" not in describe(CPU)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA X")
    environment = describe(torch.device("cuda"))
    assert environment["kernels"] == "deterministic cuDNN"
    cost = SimpleNamespace(environment=Environment(**environment))
    assert describe_environment(cost).startswith("NVIDIA X, deterministic cuDNN; ")  # type: ignore[arg-type]


NEVER_SET = """
import torch
from pai_bench.support import precision
from pai_bench.support.precision import GENERAL, OPERATIONS, arithmetic

precision.cuda_in_use = lambda: True

def seen():
    return [torch._C._get_fp32_precision_getter(*key) for key in (*GENERAL, *OPERATIONS)]

torch.backends.fp32_precision = {general!r}
before = seen()
for _ in range(2):
    with arithmetic("fp32", torch.device("cpu")):
        assert torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert not torch.backends.cudnn.allow_tf32
    assert seen() == before, (seen(), before)
"""


@pytest.mark.parametrize("general", ["none", "ieee", "tf32", "bf16"])
def test_settings_that_nobody_has_touched(general: str) -> None:
    """In a process of its own: torch has defaults that cannot be set again."""
    subprocess.run([sys.executable, "-c", NEVER_SET.format(general=general)], check=True)


@pytest.mark.usefixtures("_with_cuda")
@pytest.mark.parametrize("setting", SETTINGS)
def test_recurrent_networks_switch_cudnn_off_and_nothing_else(setting: Callable[[], None]) -> None:
    setting()
    before = seen()
    model = pb.create_model("lstm-s", input_shape=(1, 8, 8), num_classes=3)
    with arithmetic("fp32", CPU), differentiable(model):
        check_block("fp32")
        assert not cudnn.enabled
    assert seen() == before
    with differentiable(nn.Linear(1, 1)):
        assert cudnn.enabled


@pytest.mark.usefixtures("_with_cuda")
def test_cudnn_flags_inside_a_block_end_with_its_precision() -> None:
    """A network of one's own may use them."""
    all_in_tf32()
    with arithmetic("fp32", CPU):
        with cudnn.flags(enabled=False):
            assert not cudnn.enabled
        assert cudnn.conv.fp32_precision == cudnn.rnn.fp32_precision == "ieee"
        assert not cudnn.allow_tf32


@pytest.mark.gpu
def test_products_on_a_gpu_are_rounded_in_tf32_and_not_in_fp32() -> None:
    """1 + 2^-13 has no place in 10 bits; a convolution in single precision may be off by rounding, but not so far."""
    device = torch.device("cuda")
    if torch.cuda.get_device_capability(device) < (8, 0):
        pytest.skip("the device has no TF32")
    all_in_tf32()
    small = 1 + 2**-13
    images, filters = torch.full((8, 64, 16, 16), small, device=device), torch.ones(64, 64, 3, 3, device=device)
    left, right = torch.full((1024, 1024), small, device=device), torch.ones(1024, 1024, device=device)
    with arithmetic("fp32", device):
        assert ((left @ right) == 1024 * small).all()
        convolved = nn.functional.conv2d(images, filters)
        assert ((convolved / (64 * 9) - small).abs() < 2**-17).all()
    with arithmetic("tf32", device):
        assert ((left @ right) == 1024).all()
