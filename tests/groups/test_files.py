"""Files of masks of groups and of smaller networks, and the smaller networks that `torch.export` exports."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.groups import find_groups
from pai_bench.groups.groups import GroupMask
from pai_bench.groups.stored import decode, encode
from tests.groups.made import groups_of, some_kept
from tests.groups.networks import NETWORKS, filled

MODELS = {
    "lenet-5-caffe": (1, 28, 28),
    "resnet-20": (3, 8, 8),
    "resnet-20-identity": (3, 8, 8),
    "lstm-s": (1, 28, 28),
    "gru-s": (1, 28, 28),
    "vit-small": (3, 32, 32),
}
"""Networks with a flatten, projected and padded shortcuts, hidden units, heads -> the shape of their inputs."""


def smaller(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, GroupMask, nn.Module, Tensor]:
    """A network with weights of its own, a mask, the smaller network, and inputs."""
    build, shape, _ = NETWORKS[name]
    network = filled(build())
    groups, _ = groups_of(network, shape)
    mask = GroupMask(groups, some_kept(groups, 0.6, 1))
    inputs = torch.randn((3, *shape[1:]), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return network, mask, pb.shrink(network, mask), inputs.to(dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_rebuilt_from_its_file_bit_for_bit(name: str, tmp_path: Path) -> None:
    network, mask, small, inputs = smaller(name)
    pb.save_shrunk(small, mask, tmp_path / "small.safetensors")
    other = NETWORKS[name][0]().double().eval()  # other weights
    before = {key: value.clone() for key, value in other.state_dict().items()}
    again = pb.load_shrunk(tmp_path / "small.safetensors", other)
    assert torch.equal(again(inputs), small(inputs))
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in small.state_dict().items()
    }
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert all(torch.equal(load_file(tmp_path / "small.safetensors")[key], v) for key, v in small.state_dict().items())
    assert torch.equal(pb.GroupMask.load(tmp_path / "small.safetensors").kept_groups, mask.kept_groups)
    assert network.training == again.training


@pytest.mark.parametrize("name", NETWORKS)
def test_a_mask_of_groups_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    network, mask, small, inputs = smaller(name)
    mask.save(tmp_path / "mask.safetensors")
    again = pb.GroupMask.load(tmp_path / "mask.safetensors")
    assert list(again) == list(mask)
    for field, value in vars(mask.groups).items():
        assert same(getattr(again.groups, field), value), field
    assert torch.equal(pb.shrink(network, again)(inputs), small(inputs))
    single = pb.Mask.load(tmp_path / "mask.safetensors")
    assert type(single) is pb.Mask
    assert all(torch.equal(single[name], mask[name]) for name in mask)
    assert list(single) == list(mask)


def same(first: Any, second: Any) -> bool:
    """Whether two fields of groups are equal."""
    if isinstance(second, Tensor):
        return torch.equal(first, second) and first.dtype == second.dtype
    if isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in second)
    if isinstance(second, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.mark.parametrize("name", MODELS)
def test_a_trained_network_of_a_name_is_rebuilt(name: str, tmp_path: Path) -> None:
    shape: Any = {"input_shape": MODELS[name], "num_classes": 5}
    model = pb.create_model(name, **shape, seed=0)
    inputs, targets = torch.randn(8, *MODELS[name]), torch.arange(8) % 5
    mask = pb.prune(model, (inputs, targets), "snap", 0.5)
    assert isinstance(mask, pb.GroupMask)
    small = pb.shrink(model, mask)
    optimizer = torch.optim.SGD(small.parameters(), 0.1)
    nn.functional.cross_entropy(small.train()(inputs), targets).backward()
    optimizer.step()
    pb.save_shrunk(small, mask, tmp_path / "small.safetensors")
    again = pb.load_shrunk(tmp_path / "small.safetensors", pb.create_model(name, **shape, seed=1).eval())
    assert torch.equal(again(inputs), small.eval()(inputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_smaller_network_is_exported(name: str) -> None:
    _, _, small, inputs = smaller(name)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(small, (inputs,), dynamic_shapes=(batch,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    more = torch.cat([inputs, inputs[:2]])
    assert torch.equal(torch.export.load(file).module()(more), small(more))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a smaller network of an MLP, its mask, a mask of single weights, and weights."""
    network, mask, small, _ = smaller("mlp")
    origin = {"model": "mine\n", "input_shape": (5,)}
    pb.save_shrunk(small, mask, tmp_path / "small", origin=origin)
    mask.save(tmp_path / "mask")
    pb.Mask(dict(mask)).save(tmp_path / "single")
    save_file(network.state_dict(), tmp_path / "weights")
    (tmp_path / "damaged").write_bytes((tmp_path / "small").read_bytes()[:-8])
    (tmp_path / "text").write_text("no tensors")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("mask", r"it holds a mask, of which pai_bench\.shrink\(model, pai_bench\.GroupMask\.load\(path\)\) makes one"),
        ("single", "it holds a mask of single weights, or weights without a list of groups"),
        ("weights", "it holds a mask of single weights, or weights without a list of groups"),
        ("damaged", "Error while deserializing header"),
        ("text", "Error while deserializing header"),
        ("missing", "No such file"),
        (".", "it is a folder, not a file"),
    ],
)
def test_what_is_no_smaller_network(file: str, message: str, files: Path) -> None:
    with pytest.raises(pb.UserError, match=f"no smaller network can be read from .*: .*{message}"):
        pb.load_shrunk(files / file, NETWORKS["mlp"][0]())


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("single", r"it names no groups; Mask\.load reads masks of single weights"),
        ("weights", "it names no groups"),
        ("damaged", "Error while deserializing header"),
        ("missing", "No such file"),
    ],
)
def test_what_is_no_mask_of_groups(file: str, message: str, files: Path) -> None:
    with pytest.raises(pb.UserError, match=f"no mask of groups can be read from .*: .*{message}"):
        pb.GroupMask.load(files / file)


def test_weights_are_no_mask(files: Path) -> None:
    with pytest.raises(pb.UserError, match=r"no mask can be read from .*small: .* must be torch\.bool"):
        pb.Mask.load(files / "small")


def test_the_wrong_network(files: Path) -> None:
    with pytest.raises(pb.UserError) as error:
        pb.load_shrunk(files / "small", nn.Linear(5, 3).double())
    assert "small does not fit the network: these are groups of another network" in str(error.value)
    assert str(error.value).endswith(r'; the file is of model "mine\n", input_shape [5]')
    with pytest.raises(pb.UserError, match=r"'0.weight' is \(torch.float64, .* there, and \(torch.float32"):
        pb.load_shrunk(files / "small", NETWORKS["mlp"][0]().float())
    with pytest.raises(pb.UserError, match=r"a model is an nn.Module"):
        pb.load_shrunk(files / "small", "lenet")  # type: ignore[arg-type]


def test_what_is_not_saved(tmp_path: Path) -> None:
    network, mask, small, _ = smaller("mlp")
    with pytest.raises(pb.UserError, match=r"takes what shrink.* made, and no other network: .* has shape"):
        pb.save_shrunk(network, mask, tmp_path / "f")
    with pytest.raises(pb.UserError, match="save_shrunk takes the GroupMask"):
        pb.save_shrunk(small, pb.Mask(dict(mask)), tmp_path / "f")  # type: ignore[arg-type]
    origins: list[Any] = [{"what": object()}, ["a list"]]
    for origin in origins:
        with pytest.raises(pb.UserError, match="the origin of a smaller network is to be of JSON values"):
            pb.save_shrunk(small, mask, tmp_path / "f", origin=origin)
    with pytest.raises(pb.UserError, match=r"the smaller network cannot be written to .* which is a folder"):
        pb.save_shrunk(small, mask, tmp_path)
    assert not list(tmp_path.iterdir())

    class WithState(nn.Linear):
        def get_extra_state(self) -> int:
            return 1

        def set_extra_state(self, state: int) -> None:
            raise NotImplementedError

    other = nn.Sequential(WithState(5, 4), nn.Linear(4, 3)).double()
    groups, _ = groups_of(other, (1, 5))
    with pytest.raises(pb.UserError, match=r"'0._extra_state' in the network's state is no tensor"):
        pb.save_shrunk(other, groups.all_kept(), tmp_path / "f")


def test_files_are_written_as_all_others_are(tmp_path: Path) -> None:
    _, mask, small, _ = smaller("mlp")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    before = os.umask(0o027)
    try:
        pb.save_shrunk(small, mask, tmp_path / "link")
        mask.save(tmp_path / "new" / "folder" / "mask")
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").stat().st_mode & 0o777 == 0o640
    assert pb.GroupMask.load(tmp_path / "new" / "folder" / "mask").groups.count == mask.groups.count
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["file"]


def changed(files: Path, change: Callable[[Any], None], name: str = "small") -> Path:
    """The file again, with other groups in its metadata."""
    with safe_open(files / name, framework="pt") as file:
        metadata = dict(file.metadata())
    groups = json.loads(metadata["groups"])
    change(groups)
    save_file(load_file(files / name), files / "changed", metadata | {"groups": json.dumps(groups)})
    return files / "changed"


@pytest.mark.parametrize(
    "change",
    [
        lambda groups: groups.pop("kept"),
        lambda groups: groups.update(kept="all"),
        lambda groups: groups.update(kept=[99]),
        lambda groups: groups.update(kept=[-1]),
        lambda groups: groups.update(kept=[10**30]),
        lambda groups: groups.update(kept=[]),
        lambda groups: groups.update(gated=[10**12]),
        lambda groups: groups["numbers"][0].append(0),
        lambda groups: groups["numbers"][0].__setitem__(0, 10**9),
        lambda groups: groups["numbers"][0].__setitem__(0, -2),
        lambda groups: groups["axes"].append([["0.weight", -1], 0]),
        lambda groups: groups["axes"].append([["0.weight", 0], -1]),
        lambda groups: groups["axes"].append([["0.weight", 0], 99]),
        lambda groups: groups["axes"].append([["nothing", 0], 0]),
        lambda groups: groups["axes"].append([["x.extra_channels", 0], 99]),
        lambda groups: groups["shapes"].update({"0.weight": [8, -5]}),
        lambda groups: groups["shapes"].update({"4.weight": [10**15, 10**15]}),
        lambda groups: groups["shapes"].pop("0.weight"),
        lambda groups: groups["flops"].update(nothing=1.0),
        lambda groups: groups["roots"].append(["0.weight", 2]),
        lambda groups: groups["rows_per_unit"].append([["0.weight", 2], 1]),
        lambda groups: groups["rows_per_unit"].append([["0.weight", 0], 0]),
        lambda groups: groups["products"].append([[99], 1.0]),
    ],
)
def test_damaged_groups(change: Callable[[Any], None], files: Path) -> None:
    file = changed(files, change)
    with pytest.raises(pb.UserError, match=r"its groups are damaged|does not fit the network|is .* there, and"):
        pb.load_shrunk(file, NETWORKS["mlp"][0]().double())
    with pytest.raises(pb.UserError, match=r"its groups are damaged|its weights are not those of its groups"):
        pb.GroupMask.load(changed(files, change, "mask"))


def test_files_of_earlier_versions_are_not_called_damaged(files: Path) -> None:
    earlier = changed(files, lambda groups: groups.pop("rows_per_unit"), "mask")
    with pytest.raises(pb.UserError, match="an earlier version of pai-bench has written it; prune again"):
        pb.GroupMask.load(earlier)


def test_groups_of_any_text() -> None:
    deep = '{"x": ' + "[" * 200_000 + "]" * 200_000 + "}"
    for text in ("", "[]", "{", "[" * 10**5, deep, "null", '{"kept": 1}'):
        with pytest.raises(ValueError, match="its groups are damaged"):
            decode(text)
    groups, _ = groups_of(filled(NETWORKS["mlp"][0]()), (1, 5))
    fields, kept = decode(encode(vars(groups), torch.arange(groups.count) == 2))
    assert fields["count"] == groups.count
    assert kept.nonzero().tolist() == [[2]]


def test_tensors_that_the_format_does_not_have(tmp_path: Path) -> None:
    network = filled(NETWORKS["mlp"][0]())
    mask = find_groups(network, torch.zeros(1, 5).double()).all_kept()
    network.register_buffer("table", torch.eye(3).to_sparse())
    with pytest.raises(pb.UserError, match="the smaller network cannot be written to"):
        pb.save_shrunk(network, mask, tmp_path / "s")


def test_buffers_that_are_not_stored_come_from_the_dense_network() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.out = nn.Linear(5, 6), nn.Linear(6, 3)
            self.register_buffer("shift", torch.rand(6), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.out(torch.relu(self.hidden(x) + self.shift))
            return y

    network, other = Shifted(), Shifted()
    mask = pb.prune(network, (torch.randn(8, 5), torch.arange(8) % 3), "snap", 0.5)
    assert isinstance(mask, GroupMask)
    pb.save_shrunk(small := pb.shrink(network, mask), mask, "small.safetensors")
    read = pb.load_shrunk("small.safetensors", other)
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in small.state_dict().items())
    assert torch.equal(read.get_buffer("shift"), pb.shrink(other, mask).get_buffer("shift"))
