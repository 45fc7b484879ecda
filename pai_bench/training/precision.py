"""In which arithmetic a block of training or scoring computes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pai_bench.training.protocol import Precision


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """A block in which matrix products and convolutions are computed in `precision`.

    ``fp32`` is single precision throughout; ``tf32`` rounds the factors of products to 10 bits, on CUDA devices that
    can, and adds in single precision; ``bf16`` is torch's autocast to bfloat16, with weights in single precision.
    """
    # convolutions are rounded by default, and products are not
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
    try:
        # its cache would keep the first step's weights until the end of the block
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=False):
            yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
