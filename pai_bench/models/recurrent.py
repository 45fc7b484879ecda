"""The recurrent networks of the SNIP paper, which read an image row by row."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn

from pai_bench.models.create import InputShape, image_shape, variant
from pai_bench.support.initialise import initialise

SOURCE = "Lee et al. 2019, arXiv:1810.02340, section 5.2"

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class RowByRow(nn.Module):
    """A linear layer, one recurrent layer over the rows of an image, and a linear layer on its last state.

    A row holds the pixels of all channels. Each gate has one bias, as in the paper's counts: the second one, which
    torch's layers have, is a buffer of zeros.
    """

    def __init__(self, cell: Callable[..., nn.RNNBase], row: int, units: int, num_classes: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(row, units)
        self.cell = cell(units, units, batch_first=True)
        zeros = torch.zeros_like(self.cell.get_parameter("bias_hh_l0"))
        del self.cell.bias_hh_l0
        self.cell.register_buffer("bias_hh_l0", zeros)
        self.outputs = nn.Linear(units, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        states: Tensor = self.cell(self.inputs(rows))[0]
        logits: Tensor = self.outputs(states[:, -1])
        return logits


def recurrent(cell: str, size: str, units: int) -> None:
    """Register an LSTM or GRU."""
    description = f"Rows of an image through a linear layer and a {cell.upper()} layer of {units} units."

    @variant(f"{cell}-{size}", description, source=SOURCE)
    def build(input_shape: InputShape, num_classes: int) -> nn.Module:
        channels, _, width = image_shape(input_shape)
        return initialise(RowByRow(CELLS[cell], channels * width, units, num_classes), "vs-x")


for _cell, (_size, _units) in product(CELLS, (("s", 128), ("b", 256))):
    recurrent(_cell, _size, _units)
