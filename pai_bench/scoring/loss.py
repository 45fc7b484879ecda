"""The loss that is differentiated: of the logits, or the batch's own function."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pai_bench.networks.forward import forward
from pai_bench.scoring.batch import Batch
from pai_bench.support.arrays import list_labels
from pai_bench.support.errors import UserError
from pai_bench.support.torch_internals import class_name
from pai_bench.support.transfers import read_scalars


def loss_of(model: nn.Module, batch: Batch, *, temperature: float = 1.0, nll: bool = False) -> Tensor:
    """L, the mean over `batch` of the loss of (logits / `temperature`).

    The batch's own loss, or the cross-entropy; with `nll`, minus the logit of the target.
    """
    # read here, while little is queued on the device, not between the passes
    limits = read_scalars(batch.targets.aminmax()) if batch.loss is None else []
    output = forward(model, batch.inputs)
    if not isinstance(output, Tensor):
        output_type, network = type(output).__name__, class_name(model)
        if batch.loss is None:
            raise UserError(f"{network} returns {output_type}, not logits: give loss=, a function of its output")
        if temperature != 1:
            raise UserError(f"a temperature of {temperature:g} divides logits, but {network} gives {output_type}")
    elif temperature != 1:
        output = output / temperature
    if batch.loss is None:
        return (F.nll_loss if nll else F.cross_entropy)(checked_logits(output, batch, *limits), batch.targets)
    if nll:
        raise UserError("loss=nll is a loss of logits, but the batch brings a loss of its own")
    value: Any = batch.loss(output, batch.targets)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise UserError("the loss given must be a differentiable scalar: the mean over the examples")
    return value.reshape(())


def checked_logits(logits: Tensor, batch: Batch, lowest: int, highest: int) -> Tensor:
    """`logits`, if they fit the targets of `batch`, which lie in `lowest` to `highest`."""
    size = len(batch.inputs)
    if logits.dim() != 2 or len(logits) != size:
        raise UserError(
            f"the model gives {tuple(logits.shape)} for {size} examples, not logits ({size}, classes): give loss=, "
            "a function of output and targets"
        )
    if lowest < 0 or highest >= logits.shape[1]:
        classes = (
            f"targets must lie in 0..{logits.shape[1] - 1}, the model's classes, but are {list_labels(batch.targets)}"
        )
        raise UserError(f"{classes}: number the labels of all data 0, 1, 2, ... without gaps")
    return logits
