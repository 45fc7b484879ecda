"""What may be given in place of tensors, what is refused with its cure, and default devices."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.scoring import MaskedModel, functions

INPUTS, TARGETS = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4
EXAMPLES = TensorDataset(INPUTS, TARGETS)
ALL = r"next\(iter\(torch.utils.data.DataLoader\(dataset, batch_size=len\(dataset\)\)\)\)"


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (INPUTS.numpy(), TARGETS.numpy()),
        (INPUTS.double().numpy(), TARGETS.int().numpy()),  # float64 is what numpy makes
        (read_only(INPUTS.numpy()), TARGETS.tolist()),
        (INPUTS.numpy()[::-1][::-1], TARGETS.numpy()[::-1].copy()[::-1]),  # strides that torch does not have
        (INPUTS.tolist(), TARGETS),
    ],
)
def test_arrays_are_taken_where_tensors_are(inputs: Any, targets: Any) -> None:
    expected = pb.get_criterion("snip").score(mlp(), pb.Batch(INPUTS, TARGETS))
    batch: Any
    for batch in ((inputs, targets), pb.Batch(inputs, targets)):
        found = pb.get_criterion("snip").score(mlp(), batch)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert pb.prune(mlp(), (inputs, targets), "snip", 0.5).kept == 96
    data = pb.DataSet("mine", (inputs, targets), (inputs, targets))  # type: ignore[arg-type]
    assert torch.equal(data.normalised(data.train.inputs), INPUTS)
    assert torch.equal(data.test.targets, TARGETS)
    assert data.num_classes == 4


def test_a_mask_of_arrays() -> None:
    mask = pb.prune(mlp(), (INPUTS, TARGETS), "snip", 0.5)
    arrays: Any = {name: keep.numpy() for name, keep in mask.items()}
    assert pb.Mask(arrays).kept_per_layer() == mask.kept_per_layer()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (EXAMPLES, f"not TensorDataset; inputs, targets = {ALL} takes all"),
        (DataLoader(EXAMPLES, 5), r"not DataLoader; inputs, targets = next\(iter\(loader\)\) takes a batch"),
        (pb.DataSet("d", Split(INPUTS, TARGETS), Split(INPUTS, TARGETS)), r"data.score_batch\(100, seed=0\)"),
        ({"inputs": INPUTS}, "not dict"),
        ((EXAMPLES, TARGETS), "the batch's inputs must be a tensor or an array, not TensorDataset; inputs, targets"),
        ((INPUTS, np.array(list("abcd") * 5)), "the batch's targets must be a tensor or an array of numbers"),
        (([[1.0], [1.0, 2.0]], [0, 1]), "the batch's inputs must be a tensor or an array of numbers"),
    ],
)
def test_what_is_no_batch(batch: Any, message: str) -> None:
    for what in (lambda: pb.prune(mlp(), batch), lambda: pb.get_criterion("snip").score(mlp(), batch)):
        with pytest.raises(pb.UserError, match=message):
            what()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (EXAMPLES, f"data set d: train must be a pair .*, not TensorDataset; inputs, targets = {ALL}"),
        (INPUTS, "not Tensor"),
        ((INPUTS, list("abcd") * 5), "data set d: train targets must be a tensor or an array of numbers"),
        ((INPUTS, TARGETS.float().numpy()), "one class index for each input"),
        ((INPUTS, TARGETS + 1), r"the labels are 1, 2, 3, 4; class indices are 0, 1, 2, .*torch.searchsorted"),
        ((INPUTS, TARGETS * 2), r"the labels are 0, 2, 4, 6; .*or give num_classes="),
        ((INPUTS, TARGETS - 1), r"the labels are -1, 0, 1, 2; "),
        ((INPUTS, torch.arange(20) + 5), r"the labels are 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 and 10 more; "),
    ],
)
def test_what_is_no_data_set(split: Any, message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        pb.DataSet("d", split, split)


def test_labels_with_gaps_are_right_where_the_number_of_classes_is_given() -> None:
    split = Split(INPUTS, TARGETS * 2)
    assert pb.DataSet("d", split, split, num_classes=8).num_classes == 8
    with pytest.raises(pb.UserError, match="the labels are 0, 2, 4, 6 with num_classes=6; "):
        pb.DataSet("d", split, split, num_classes=6)
    part = Split(INPUTS[:2], TARGETS[:2])  # one split may lack what the other has
    assert pb.DataSet("d", Split(INPUTS, TARGETS), part).num_classes == 4


def test_the_cure_for_labels_cures() -> None:
    targets = torch.searchsorted(torch.unique(TARGETS * 2 + 1), TARGETS * 2 + 1)
    assert pb.DataSet("d", Split(INPUTS, targets), Split(INPUTS, targets)).num_classes == 4


@pytest.mark.parametrize(("targets", "labels"), [(TARGETS + 1, "1, 2, 3, 4"), (TARGETS * 2, "0, 2, 4, 6")])
def test_a_batch_whose_labels_do_not_begin_at_zero_or_have_gaps(targets: Tensor, labels: str) -> None:
    message = rf"targets must lie in 0..3, the model's classes, but are {labels}: number the labels"
    with pytest.raises(pb.UserError, match=message):
        pb.prune(mlp(), (INPUTS, targets), "snip", 0.5)


def test_numbers_given_as_text() -> None:
    given: Any = "0.9"
    assert pb.prune(mlp(), (INPUTS, TARGETS), "snip", given).kept == 19
    for name in ("sparsity", "min_per_layer", "seed"):
        wrong: Any = {name: "many"}
        with pytest.raises(pb.UserError, match=f"{name}=many is not a"):
            pb.prune(mlp(), (INPUTS, TARGETS), "snip", **wrong)
    split, wrong = Split(INPUTS, TARGETS), "many"
    with pytest.raises(pb.UserError, match="num_classes=many is not a whole number"):
        pb.DataSet("d", split, split, num_classes=wrong)


def test_gradients_of_a_plain_pair() -> None:
    class Pairs(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            inputs, targets = batch
            loss, found = model.loss_and_gradients((inputs, targets))
            again = model.gradients((inputs.numpy(), targets.numpy()))
            assert all(torch.equal(again[name], found[name]) for name in found)
            return {name: loss * gradient for name, gradient in found.items()}

    assert set(pb.get_criterion(Pairs()).score(mlp(), pb.Batch(INPUTS, TARGETS))) == {"0.weight", "2.weight"}
    with pytest.raises(pb.UserError, match=r"inside a criterion's score.*not on another Sequential$"):
        functions.gradients(mlp(), (INPUTS, TARGETS))


def small(_shape: object, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, classes))


@pytest.mark.parametrize("criterion", ["random", "snip", "grasp", "synflow", "erk"])
def test_another_default_device_changes_no_mask(criterion: str) -> None:
    """The device meta, which has no values, stands for any other: whatever were made there would be an error."""
    model, batch = mlp(), pb.Batch(INPUTS, TARGETS)
    options: list[dict[str, Any]] = [{"schedule": "linear:steps=2"}, {"variant": "shuffle"}, {"target": "effective"}]
    for more in options:
        expected = pb.prune(model, batch, criterion, 0.7, **more)
        with torch.device("meta"):
            found = pb.prune(model, batch, criterion, 0.7, **more)
            assert pb.connectivity(model, found, INPUTS[:1]).layers
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_sweep_under_another_default_device(tmp_path: Any) -> None:
    data = pb.DataSet("d", Split(INPUTS, TARGETS), Split(INPUTS, TARGETS))
    own = {"models": [small], "data": [data], "sparsities": [0.5], "seeds": 1, "epochs": 1, "batch_size": 5}
    sweep = pb.Sweep(criteria=["snip"], score_batch=8, validation=0.2, label_noise=0.1, **own)  # type: ignore[arg-type]
    expected = pb.run(sweep, out=tmp_path / "one")
    with torch.device("meta"):
        found = pb.run(sweep, out=tmp_path / "other")
    assert list(found.test_loss) == list(expected.test_loss)


def test_a_network_in_the_place_of_what_builds_one(tmp_path: Any) -> None:
    message = "a model is a name or a function that builds one, not a network such as this Sequential"
    network: Any = mlp()
    for models in ([network], network):
        with pytest.raises(pb.UserError, match=message):
            pb.run(pb.Sweep(models=models), out=tmp_path)
    with pytest.raises(pb.UserError, match=message):
        pb.create_model(network, input_shape=(8,), num_classes=4)


@pytest.mark.parametrize(
    "data", [EXAMPLES, [EXAMPLES], (INPUTS, TARGETS), [(INPUTS, TARGETS), (INPUTS.clone(), TARGETS)]]
)
def test_what_is_no_data_set_in_a_sweep(tmp_path: Any, data: Any) -> None:
    with pytest.raises(pb.UserError, match=r'data is a name or a DataSet, not .*: pai_bench.DataSet\("NAME"'):
        pb.run(pb.Sweep(data=data), out=tmp_path)
    with pytest.raises(pb.UserError, match="a data set is looked up by its name, not by a TensorDataset"):
        pb.load_data(EXAMPLES)  # type: ignore[arg-type]
