"""The verb `prune`: what it says of networks that a mask cuts, and of those that are trained on little."""

from pathlib import Path

import pytest

import pai_bench as pb
from pai_bench.cli.entry import main

NETWORKS = """
import torch
from torch import nn
import pai_bench as pb
from pai_bench.data import Split

class Skip(nn.Module):
    def __init__(self, size, classes):
        super().__init__()
        self.large, self.small = nn.Linear(size, classes), nn.Linear(size, classes)
        nn.init.constant_(self.small.weight, 1e-6)

    def forward(self, x):
        return self.large(x) + self.small(x)

def skip(shape, classes):
    return Skip(shape[0], classes)

def chain(shape, classes):
    second = nn.Linear(4, classes)
    nn.init.constant_(second.weight, 1e-6)
    return nn.Sequential(nn.Linear(shape[0], 4), second)

def layer(shape, classes):
    return nn.Linear(shape[0], classes)

def points():
    x = torch.arange(12.0).reshape(6, 2)
    split = Split(x, torch.tensor([0, 1, 0, 1, 0, 1]))
    return pb.DataSet("points", split, split)
"""


@pytest.mark.parametrize(
    ("network", "sparsity", "said"),
    [
        ("skip", "0.25", "connected; effective sparsity 0.250"),
        ("skip", "0.5", "connected; effective sparsity 0.500; dead: small.weight"),
        ("chain", "0.5", "disconnected, first in 1.weight; effective sparsity 1"),
    ],
)
def test_what_a_mask_cuts(network: str, sparsity: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of eight and of sixteen weights; the data set has six examples, fewer than a batch of training."""
    Path("own.py").write_text(NETWORKS)
    files = ["--model", f"./own.py:{network}", "--data", "./own.py:points"]
    scoring = ["--criterion", "magnitude", "--score-batch", "2", "--device", "cpu"]
    assert main(["prune", *files, *scoring, "--sparsity", sparsity]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert pb.Mask.load("mask.safetensors").sparsity == float(sparsity)


def test_a_network_in_which_no_unit_is_free_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.py").write_text(NETWORKS)
    files = ["--model", "./own.py:layer", "--data", "./own.py:points", "--score-batch", "2", "--device", "cpu"]
    assert main(["prune", *files, "--criterion", "snap", "--sparsity", "0.5"]) == 2
    said = capsys.readouterr().err
    assert "snap: no unit of layer@" in said
    assert "can be removed, since all its layers are fixed (the network's output)" in said
    assert "failed" not in said
