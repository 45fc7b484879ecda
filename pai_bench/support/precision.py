"""In which arithmetic a block of training or scoring computes, whatever was set outside of it."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "tf32", "bf16"]

Key = tuple[str, str]
"""Backend and operation, in torch's words."""

GENERAL: tuple[Key, ...] = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))
OPERATIONS: tuple[Key, ...] = tuple((backend, op) for backend in ("cuda", "mkldnn") for op in ("matmul", "conv", "rnn"))
"""The operations that torch rounds the factors of, each by its own setting or, without one, by a general one."""


@contextmanager
def arithmetic(precision: Precision, device: "torch.device") -> Iterator[None]:
    """A block in which matrix products and convolutions are computed in `precision`, by the same kernels every time.

    ``fp32`` is single precision throughout; ``tf32`` rounds the factors of products to 10 bits, on CUDA devices that
    can, and adds in single precision; ``bf16`` is torch's autocast to bfloat16, with weights in single precision.
    """
    import torch

    # its cache would keep the first step's weights until the end of the block
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)
    with rounding(precision, device), autocast:
        yield


@contextmanager
def rounding(precision: Precision, device: "torch.device") -> Iterator[None]:
    """A block in which factors in single precision are rounded in ``tf32`` only, on any device, without autocast.

    cuDNN uses deterministic kernels and measures none. Afterwards every setting is what it was.
    """
    if device.type == "cpu" and not cuda_in_use() and _processors_round_nothing():
        yield  # nothing that could be set matters, and setting it takes 50 microseconds, a fiftieth of a small score
        return
    before = _Settings.read()
    try:
        _Settings.of(precision).write()
        yield
    finally:
        before.write()


@contextmanager
def reproducible(device: "torch.device") -> Iterator[None]:
    """A block in ``fp32`` that gives the same bits every time, forwards and backwards, as far as torch can.

    On a CUDA device, the order of a sum may depend on chance. In the networks that are scored here, it would in:

    * gradients of convolutions: cuDNN has deterministic kernels, which are used;
    * gradients of fused attention over more than one block of keys: attention is two products and a softmax instead,
      which takes memory for all pairs of places.

    Products (torch gives cuBLAS a workspace for each stream), sums, normalisation, max pooling, average pooling, and
    adaptive pooling to a size that divides the input's, have one order. Others have not: gradients through lookups of
    weights by index, scattering, resizing, padding by reflection, other adaptive pooling. A part of these would get an
    order, but by ``torch.use_deterministic_algorithms(True, warn_only=True)``, which is not switched on here: it
    leaves attention and adaptive pooling as they are, warns of every product unless an environment variable is set
    before the first one, and fills all new memory. Where a user has switched it on, it stays so.
    """
    with ExitStack() as stack:
        stack.enter_context(rounding("fp32", device))
        if device.type == "cuda":
            from torch.nn.attention import SDPBackend, sdpa_kernel

            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def cuda_in_use() -> bool:
    """Whether this process computes on a CUDA device."""
    import torch

    in_use: bool = torch.cuda.is_initialized()
    return in_use


def _processors_round_nothing() -> bool:
    """Whether products on a processor are in single precision as things are, whichever setting says so."""
    from pai_bench.support.torch_internals import get_fp32_precision

    return all(get_fp32_precision(backend, op) in ("ieee", "none") for backend, op in OPERATIONS if backend == "mkldnn")


@dataclass(frozen=True)
class _Settings:
    """What torch is told about the rounding of factors, by both of its interfaces, and about cuDNN's kernels.

    The two interfaces write to the same values, but the older one also keeps a copy of its own, and reading it, as
    ``torch.backends.cudnn.flags`` and the compiler do, is an error where the copy differs. So both are set.
    """

    precisions: Mapping[Key, str]
    """By operation; with ``none`` it has that of its backend, and this the one for all."""
    convolutions: bool
    products: str
    deterministic: bool = True
    benchmark: bool = False

    @classmethod
    def of(cls, precision: Precision) -> "_Settings":
        """The settings of a block in `precision`; only CUDA devices round, and only in ``tf32``."""
        rounds = precision == "tf32"
        keys = (*GENERAL, *OPERATIONS)
        precisions = {key: "tf32" if rounds and key[0] != "mkldnn" else "ieee" for key in keys}
        return cls(precisions, rounds, "high" if rounds else "highest")

    @classmethod
    def read(cls) -> "_Settings":
        """The settings as they are. Reading clears some of them, so they must be written again."""
        import torch

        from pai_bench.support.torch_internals import get_fp32_precision, set_fp32_precision

        seen = {key: get_fp32_precision(*key) for key in OPERATIONS}
        precisions = {}
        for key in (*GENERAL, *OPERATIONS):
            precisions[key] = get_fp32_precision(*key)
            set_fp32_precision(*key, "none")  # or else what follows it would read as this
        # cuDNN's default in later versions of torch yields to general settings, but cannot be written
        precisions |= {key: "none" for key, value in seen.items() if precisions[key] != value}
        cudnn = torch.backends.cudnn
        try:
            convolutions = cudnn.allow_tf32
        except RuntimeError:  # it differs from the cleared values, which are off
            convolutions = True
        return cls(precisions, convolutions, torch.get_float32_matmul_precision(), cudnn.deterministic, cudnn.benchmark)

    def write(self) -> None:
        """Make torch compute by these settings."""
        import torch

        from pai_bench.support.torch_internals import set_fp32_precision

        cudnn = torch.backends.cudnn
        cudnn.allow_tf32 = self.convolutions
        torch.set_float32_matmul_precision(self.products)
        for key, precision in self.precisions.items():  # last, since the older interface sets some of them
            set_fp32_precision(*key, precision)
        cudnn.deterministic, cudnn.benchmark = self.deterministic, self.benchmark
