"""Initialisations of whole networks, by name."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from pai_bench.errors import UserError
from pai_bench.law import Law

LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)

CUT_OFF = 2.0
"""Where truncated normals end, in deviations of the whole one."""


def truncated_by_fan_in(weight: Tensor) -> Tensor:
    """Normal, cut off at two deviations, with variance 1 / fan in after that."""
    if not weight.numel():
        return weight
    within = math.erf(CUT_OFF / math.sqrt(2))
    left = 1 - 2 * CUT_OFF * math.exp(-(CUT_OFF**2) / 2) / math.sqrt(2 * math.pi) / within
    deviation = 1 / math.sqrt(weight[0].numel() * left)
    return nn.init.trunc_normal_(weight, std=deviation, a=-CUT_OFF * deviation, b=CUT_OFF * deviation)


def he_by_fan_in(weight: Tensor) -> Tensor:
    """Normal with variance 2 / fan in."""
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


def he_by_fan_out(weight: Tensor) -> Tensor:
    """Of a convolution: normal with variance 2 / fan out; else normal with deviation 0.01."""
    if weight.dim() > 2:
        return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    return nn.init.normal_(weight, std=0.01)


LAWS: dict[Law, Callable[[Tensor], object]] = {
    "vs-x": nn.init.xavier_normal_,
    "vs-h": he_by_fan_in,
    "vs": truncated_by_fan_in,
    "rn": nn.init.normal_,
    "tn": lambda weight: nn.init.trunc_normal_(weight, a=-CUT_OFF, b=CUT_OFF),
    "openlth": he_by_fan_in,
    "grasp": he_by_fan_out,
}
"""How weights are drawn, by the names of the SNIP paper (Lee et al. 2019, arXiv:1810.02340, table 3) and its code.

``vs-x``: normal with variance 2 / (fan in + fan out) (Glorot & Bengio 2010). ``vs-h``: normal with variance 2 / fan
in (He et al. 2015). ``vs``: normal, cut off at two deviations, with variance 1 / fan in (LeCun et al. 1998), which
the paper's code draws where its text says Glorot. ``rn``: standard normal. ``tn``: standard normal, cut off at 2. The
paper gives no deviation for the last two; 1 is the default of the library that its code uses.

Two are named after published codes. ``openlth`` (Frankle et al. 2021, arXiv:2009.08576): as ``vs-h``, biases uniform in
+-1 / sqrt(fan in), gamma of batch norm uniform in [0, 1) and beta zero. ``grasp`` (Wang et al. 2020, arXiv:2002.07376):
convolutions normal with variance 2 / fan out, other weights normal with deviation 0.01, batch norm at 1 and 0.
"""


@torch.no_grad()
def initialise(model: nn.Module, law: Law) -> nn.Module:
    """Draw the weights of linear, convolutional and recurrent layers and attention anew; their biases become zero.

    Each gate of a recurrent layer, each projection of attention and each group of a convolution is a matrix of its own.
    Everything else, batch norm above all, stays as it is, but where `LAWS` says otherwise. Returns the same network.
    """
    found = False
    for path, module in model.named_modules():
        if isinstance(module, LAYERS) and parametrize.is_parametrized(module):
            raise UserError(f"{path!r} is parametrised, so that {law} cannot draw its weights")
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
            initialise_batch_norm(module, law)
        for name, weight in module.named_parameters(recurse=False) if isinstance(module, LAYERS) else ():
            if "bias" in name:
                initialise_bias(module, weight, law)
                continue
            for part in parts(module, weight):
                LAWS[law](part)
                found = True
    if not found:
        raise UserError(f"{type(model).__name__} has no layer that {law} is for (Linear, Conv, RNN, attention)")
    return model


def initialise_bias(module: nn.Module, bias: Tensor, law: Law) -> None:
    """Zero, or what torch itself gives a layer where a law leaves it there."""
    attention = isinstance(module, (nn.MultiheadAttention, NonDynamicallyQuantizableLinear))  # the last ends it
    if law != "openlth" or attention:
        nn.init.zeros_(bias)
        return
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        inputs = module.hidden_size
    else:
        inputs = next(module.parameters(recurse=False))[0].numel()
    nn.init.uniform_(bias, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))


def initialise_batch_norm(module: nn.modules.batchnorm._BatchNorm, law: Law) -> None:
    """As the codes do that a law is named after."""
    if law in ("openlth", "grasp"):
        if law == "openlth":
            nn.init.uniform_(module.weight)
        else:
            nn.init.ones_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def parts(module: nn.Module, weight: Tensor) -> Iterator[Tensor]:
    """The matrices that a layer's weight consists of, outputs first, each with a fan in and a fan out of its own."""
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        # one gate after the other; the projection of an LSTM has fewer rows than a gate
        yield from weight.split(module.hidden_size)
    elif isinstance(module, nn.MultiheadAttention):
        yield from weight.split(module.embed_dim)
    elif isinstance(module, nn.modules.conv._ConvNd):
        for group in weight.chunk(module.groups):
            yield group.transpose(0, 1) if module.transposed else group
    else:
        yield weight
