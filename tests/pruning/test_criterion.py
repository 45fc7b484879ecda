"""What is prunable, what is a batch, and how options are read."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.errors import UserError
from pai_bench.pruning import prunable_parameters


def test_prunable_weights_of_every_kind() -> None:
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(5, 4),
            "linear": nn.Linear(4, 4),
            "conv": nn.Conv3d(2, 2, 3, groups=2),
            "transposed": nn.ConvTranspose1d(2, 2, 3),
            "norm": nn.LayerNorm(4),
            "bn": nn.BatchNorm1d(4),
            "gru": nn.GRU(4, 3, bidirectional=True),
            "cell": nn.LSTMCell(4, 3),
            "attention": nn.MultiheadAttention(4, 2),
            "cross": nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        }
    )
    assert list(prunable_parameters(model)) == [
        "linear.weight",
        "conv.weight",
        "transposed.weight",
        "gru.weight_ih_l0",
        "gru.weight_hh_l0",
        "gru.weight_ih_l0_reverse",
        "gru.weight_hh_l0_reverse",
        "cell.weight_ih",
        "cell.weight_hh",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "cross.q_proj_weight",
        "cross.k_proj_weight",
        "cross.v_proj_weight",
        "cross.out_proj.weight",
    ]


def test_a_shared_weight_counts_once(network: tuple[nn.Module, pb.Batch]) -> None:
    found = list(prunable_parameters(network[0]).values())
    assert len({id(parameter) for parameter in found}) == len(found)


def test_a_model_without_prunable_weights() -> None:
    with pytest.raises(UserError, match="no prunable weight"):
        prunable_parameters(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(3, 2), torch.zeros(3)),
    ],
)
def test_a_batch_is_checked(inputs: Tensor, targets: Tensor) -> None:
    with pytest.raises(UserError):
        pb.Batch(inputs, targets)


def test_options_by_text_and_by_keyword() -> None:
    assert pb.get_criterion("grasp:temperature=1:bn=eval") == pb.get_criterion("grasp", temperature=1.0, bn="eval")
    assert str(pb.get_criterion("grasp:temperature=1")) == "grasp:temperature=1.0"
    assert pb.get_criterion(str(pb.get_criterion("random:seed=7"))) == pb.get_criterion("random", seed=7)
    assert pb.get_criterion("snip_it") == pb.get_criterion("snip-it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("snipp", "did you mean snip"),
        ("grasp:temprature=1", "did you mean temperature"),
        ("grasp:temperature=hot", "temperature=hot is not a finite number"),
        ("grasp:bn=both", "is not one of train, eval"),
        ("grasp:temperature", "OPTION=VALUE"),
        ("grasp:bn=train:bn=eval", "given twice"),
        ("./missing.py:Mine", "no file"),
        ("grasp:temperature=0", "temperature=0.0 must be positive"),
        ("grasp:temperature=nan", "temperature=nan is not a finite number"),
        ("random:seed=-1", "seed=-1 is outside"),
    ],
)
def test_mistakes_in_a_criterion(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pb.get_criterion(text)


def test_options_given_from_python_are_checked_and_brought_into_one_form() -> None:
    grasp: Any = type(pb.get_criterion("grasp"))
    assert str(grasp(temperature=1)) == "grasp:temperature=1.0"
    with pytest.raises(UserError, match="bn=both is not one of train, eval"):
        pb.get_criterion("snip", bn="both")
    with pytest.raises(UserError, match="not one of train, eval"):
        grasp(bn="trian")
    with pytest.raises(UserError, match="a name or an instance of Criterion"):
        pb.get_criterion(grasp)
