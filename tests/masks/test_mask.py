"""Masks: facts, application, files."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import pai_bench as pb
from pai_bench.support.errors import UserError


def example() -> pb.Mask:
    return pb.Mask({"2.weight": torch.tensor([[True, False]]), "0.weight": torch.tensor([[True], [False]])})


def test_counts() -> None:
    mask = example()
    assert (mask.size, mask.kept, mask.density, mask.sparsity) == (4, 2, 0.5, 0.5)
    assert mask.kept_per_layer() == {"2.weight": 1, "0.weight": 1}


def test_apply_sets_exact_zeros_and_keeps_the_rest() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model.get_parameter("0.weight")[1] = -torch.inf  # even infinity becomes zero
    before = model.get_parameter("2.weight").detach().clone()
    assert example().apply_(model) is model
    assert model.get_parameter("0.weight")[1].item() == 0.0
    assert model.get_parameter("2.weight")[0, 0] == before[0, 0]
    assert model.get_parameter("2.weight")[0, 1].item() == 0.0


def test_save_and_load_keep_the_order(tmp_path: Path) -> None:
    example().save(tmp_path / "m.safetensors")
    loaded = pb.Mask.load(tmp_path / "m.safetensors")
    assert list(loaded) == ["2.weight", "0.weight"]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in example().items())


def test_a_mask_that_keeps_everything_and_its_text() -> None:
    mask = pb.Mask.whole({"a": torch.zeros(2, 3), "b": torch.zeros(4)})
    assert repr(mask) == "Mask(10 of 10 connections in 2 layers, sparsity 0.0000)"
    assert repr(example()) == "Mask(2 of 4 connections in 2 layers, sparsity 0.5000)"


def test_a_file_of_another_program_is_read_in_its_own_order(tmp_path: Path) -> None:
    save_file({"b": torch.ones(1).bool(), "a": torch.zeros(2).bool()}, tmp_path / "m.safetensors")
    assert list(pb.Mask.load(tmp_path / "m.safetensors")) == ["a", "b"]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'a'.*torch.float32"):
        pb.Mask({"a": torch.ones(2)})
    with pytest.raises(UserError, match="at least one tensor"):
        pb.Mask({})
    with pytest.raises(UserError, match="the mask cannot be written to"):
        pb.Mask({"\ud800": torch.ones(2).bool()}).save(tmp_path / "m.safetensors")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no mask can be read"):
        pb.Mask.load(tmp_path / "pipe")
    with pytest.raises(UserError, match="does not have"):
        example().apply_(nn.Linear(1, 2))
    with pytest.raises(UserError, match=r"\(1, 2\).*\(2, 2\)"):
        example().apply_(nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)))
    with pytest.raises(UserError, match="no mask can be read"):
        pb.Mask.load(tmp_path / "missing.safetensors")
    (tmp_path / "text").write_text("not a mask")
    with pytest.raises(UserError, match="no mask can be read"):
        pb.Mask.load(tmp_path / "text")
