"""Initialisations of whole networks, by name."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from pai_bench.support.errors import UserError, unknown
from pai_bench.support.registry import INITIALISATIONS, initialisation
from pai_bench.support.torch_internals import BatchNormBase, ConvBase

LAYERS = (nn.Linear, ConvBase, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)

CUT_OFF = 2.0
"""Where truncated normal distributions end, in deviations of the whole distribution."""


class Initialisation(ABC):
    """How the weights of a whole network are drawn, registered by `pai_bench.support.registry.initialisation`."""

    @abstractmethod
    def draw(self, weight: Tensor) -> object:
        """Fill a matrix or a kernel of weights, outputs first."""

    def draw_bias(self, module: nn.Module, bias: Tensor) -> None:
        """Fill a bias of `module`: with zeros, unless a subclass does otherwise."""
        nn.init.zeros_(bias)

    def draw_batch_norm(self, module: BatchNormBase) -> None:  # noqa: B027  # most leave it as it is
        """Fill the scale and the shift of batch norm, which stay as they are unless a subclass does otherwise."""


# by the names of the SNIP paper (Lee et al. 2019, arXiv:1810.02340, table 3) and its code


@initialisation("vs-x", source="Glorot and Bengio 2010")
class Glorot(Initialisation):
    """Normal with variance 2 / (fan in + fan out)."""

    def draw(self, weight: Tensor) -> object:
        return nn.init.xavier_normal_(weight)


@initialisation("vs-h", source="He et al. 2015, arXiv:1502.01852")
class He(Initialisation):
    """Normal with variance 2 / fan in."""

    def draw(self, weight: Tensor) -> object:
        return nn.init.kaiming_normal_(weight, nonlinearity="relu")


@initialisation("vs", source="LeCun et al. 1998; what SNIP's code draws where its text says Glorot")
class LeCun(Initialisation):
    """Normal, cut off at two deviations, with variance 1 / fan in after that."""

    def draw(self, weight: Tensor) -> object:
        if not weight.numel():
            return weight
        within = math.erf(CUT_OFF / math.sqrt(2))
        variance = 1 - 2 * CUT_OFF * math.exp(-(CUT_OFF**2) / 2) / math.sqrt(2 * math.pi) / within
        deviation = 1 / math.sqrt(weight[0].numel() * variance)
        return nn.init.trunc_normal_(weight, std=deviation, a=-CUT_OFF * deviation, b=CUT_OFF * deviation)


@initialisation("rn", source="Lee et al. 2019, arXiv:1810.02340, table 3")
class Normal(Initialisation):
    """Standard normal: the paper gives no deviation, 1 is the default of the library that its code uses."""

    def draw(self, weight: Tensor) -> object:
        return nn.init.normal_(weight)


@initialisation("tn", source="Lee et al. 2019, arXiv:1810.02340, table 3")
class TruncatedNormal(Initialisation):
    """Standard normal, cut off at 2."""

    def draw(self, weight: Tensor) -> object:
        return nn.init.trunc_normal_(weight, a=-CUT_OFF, b=CUT_OFF)


@initialisation("openlth", source="Frankle et al. 2021, arXiv:2009.08576")
class OpenLTH(He):
    """As ``vs-h``, biases uniform in +-1 / sqrt(fan in), gamma of batch norm uniform in [0, 1) and beta zero."""

    def draw_bias(self, module: nn.Module, bias: Tensor) -> None:
        if isinstance(module, (nn.MultiheadAttention, NonDynamicallyQuantizableLinear)):  # the output of attention
            nn.init.zeros_(bias)
            return
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            inputs = module.hidden_size
        else:
            inputs = next(module.parameters(recurse=False))[0].numel()
        nn.init.uniform_(bias, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def draw_batch_norm(self, module: BatchNormBase) -> None:
        nn.init.uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@initialisation("grasp", source="Wang et al. 2020, arXiv:2002.07376")
class GraSP(Initialisation):
    """Convolutions normal with variance 2 / fan out, others normal with deviation 0.01, batch norm at 1 and 0."""

    def draw(self, weight: Tensor) -> object:
        if weight.dim() > 2:
            return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        return nn.init.normal_(weight, std=0.01)

    def draw_batch_norm(self, module: BatchNormBase) -> None:
        nn.init.ones_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def initialise(model: nn.Module, name: str) -> nn.Module:
    """Draw the weights of linear, convolutional and recurrent layers and attention anew; their biases become zero.

    Each gate of a recurrent layer, each projection of attention and each group of a convolution is a matrix of its own.
    Everything else, batch norm above all, stays as it is, but where the initialisation called `name` says otherwise.
    Returns the same network.
    """
    if (cls := INITIALISATIONS.get(name)) is None:
        raise unknown("initialisation", name, INITIALISATIONS)
    initializer, has_weights = cls(), False
    for path, module in model.named_modules():
        if isinstance(module, LAYERS) and parametrize.is_parametrized(module):
            raise UserError(f"{path!r} is parametrised, so that {name} cannot draw its weights")
        if isinstance(module, BatchNormBase) and module.weight is not None:
            initializer.draw_batch_norm(module)
        for key, weight in module.named_parameters(recurse=False) if isinstance(module, LAYERS) else ():
            if "bias" in key:
                initializer.draw_bias(module, weight)
                continue
            for matrix in matrices(module, weight):
                initializer.draw(matrix)
                has_weights = True
    if not has_weights:
        raise UserError(f"{type(model).__name__} has no layer that {name} is for (Linear, Conv, RNN, attention)")
    return model


def matrices(module: nn.Module, weight: Tensor) -> Iterator[Tensor]:
    """The matrices that a layer's weight consists of, outputs first, each with a fan in and a fan out of its own."""
    if isinstance(module, nn.RNNCellBase):
        yield from weight.split(module.hidden_size)  # one gate after the other
    elif isinstance(module, nn.RNNBase):  # of smaller networks, layers have different numbers of hidden units
        gates = module.get_parameter("weight_hh_l0").shape[0] // module.hidden_size
        is_projection = bool(module.proj_size) and weight.shape[0] == module.proj_size
        yield from weight.chunk(1 if is_projection else gates)
    elif isinstance(module, nn.MultiheadAttention):  # of smaller networks, heads need not fill the features
        yield from weight.chunk(3 if weight is module.in_proj_weight else 1)
    elif isinstance(module, ConvBase):
        for group in weight.chunk(module.groups):
            yield group.transpose(0, 1) if module.transposed else group
    else:
        yield weight
