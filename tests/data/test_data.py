"""Data sets: sizes, splits, normalisation, score batches."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.data.digits import raw_digits
from pai_bench.training import trainer
from pai_bench.training.protocol import get_protocol


def small(seed: int = 0) -> pb.DataSet:
    """40 colour images of 4 uneven classes."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (40, 3, 2, 2), generator=generator, dtype=torch.uint8)
    targets = torch.tensor([0] * 20 + [1] * 10 + [2] * 8 + [3] * 2)
    return pb.DataSet("small", Split(inputs, targets), Split(inputs[:5], targets[:5]), num_classes=4)


def test_digits_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sklearn.datasets", None)  # which takes long to import
        read = raw_digits()
    monkeypatch.setattr(Path, "is_file", lambda _self: False)
    for mine, theirs in zip(read, raw_digits(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_digits() -> None:
    data = pb.load_data("digits")
    assert data.input_shape == (1, 28, 28)
    assert data.num_classes == 10
    assert (len(data.train.targets), len(data.test.targets)) == (1347, 450)
    assert data.checksum == "3965487e3d36c71b"  # for ever the same images in the same split
    shares = torch.bincount(data.test.targets) / (
        torch.bincount(data.train.targets) + torch.bincount(data.test.targets)
    )
    assert (shares - 0.25).abs().max() < 0.005
    train, test = ({bytes(image.numpy().data) for image in split.inputs} for split in (data.train, data.test))
    assert not train & test
    assert int(data.train.inputs.max()) == 255


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    data = small()
    floats = data.train.inputs.double()
    expected = (floats - floats.mean((0, 2, 3), keepdim=True)) / floats.std((0, 2, 3), keepdim=True, correction=0)
    assert torch.allclose(data.normalised(data.train.inputs).double(), expected, atol=1e-6)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    split = Split(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    data = pb.DataSet("constant", split, split)
    assert not data.normalised(data.train.inputs).any()


def test_floats_are_taken_as_they_are() -> None:
    split = Split(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    assert torch.equal(pb.DataSet("floats", split, split).normalised(split.inputs), split.inputs)


@given(size=st.integers(1, 40), seed=st.integers(0, 100))
def test_a_balanced_score_batch_has_as_many_of_each_class_as_it_goes(size: int, seed: int) -> None:
    data = small()
    batch = data.score_batch(size, seed)
    counts = torch.bincount(batch.targets, minlength=4)
    available = torch.bincount(data.train.targets)
    level = int(counts.max())
    assert counts.sum() == size
    assert (
        counts >= torch.minimum(available, torch.tensor(level - 1))
    ).all()  # only what ran out lags by more than one
    again = data.score_batch(size, seed)
    assert torch.equal(batch.inputs, again.inputs)


def test_score_batches_are_drawn_without_replacement_and_differ_by_seed() -> None:
    data = small()
    for balanced in (True, False):
        whole = data.score_batch(40, 0, balanced=balanced)
        assert sorted(whole.inputs.sum((1, 2, 3)).tolist()) == sorted(
            data.normalised(data.train.inputs).sum((1, 2, 3)).tolist()
        )
        one, other = (data.score_batch(10, seed, balanced=balanced).inputs for seed in (0, 1))
        assert not torch.equal(one, other)
    # at random, the classes come as often as they are: over 400 draws of 10, class 0 is half of it
    share = np.mean([(data.score_batch(10, seed, balanced=False).targets == 0).float().mean() for seed in range(400)])
    assert share == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)
    with pytest.raises(pb.UserError, match="score batch of 41 does not fit 40"):
        data.score_batch(41, 0)


def test_what_is_not_a_data_set() -> None:
    good = (torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    for train, test, message in (
        ((good[0], good[1][:3]), good, "train needs one class index for each input"),
        (good, (good[0][:0], good[1][:0]), "test needs one class index"),
        (good, (torch.randn(4, 2), good[1]), "differ in shape or type"),
        ((good[0], good[1] * 0), (good[0], good[1] * 0), "the labels are 0; class indices are 0, 1, 2"),
        ((good[0], good[1] - 1), good, "the labels are -1, 0, 1; "),
    ):
        with pytest.raises(pb.UserError, match=message):
            pb.DataSet("bad", Split(*train), Split(*test))


def test_inputs_that_are_no_images_stay_as_they_are() -> None:
    tokens = Split(torch.randint(0, 9, (6, 4)), torch.tensor([0, 1, 0, 1, 0, 1], dtype=torch.int32))
    data = pb.DataSet("tokens", tokens, tokens)
    assert data.normalised(data.train.inputs).dtype == torch.int64
    assert data.train.targets.dtype == torch.int64
    numpy = Split(torch.from_numpy(np.zeros((6, 1, 5)).T.reshape(5, 6).T), tokens.targets)
    data = pb.DataSet("numpy", numpy, numpy)
    assert data.normalised(data.train.inputs).dtype == torch.float32
    assert len(data.checksum) == 16
    halves = Split(torch.randn(6, 4, dtype=torch.bfloat16, requires_grad=True), tokens.targets)
    assert len(pb.DataSet("halves", halves, halves).checksum) == 16


def test_plain_tuples_become_splits() -> None:
    inputs, targets = small().train
    plain = (inputs, targets)
    assert isinstance(pb.DataSet("plain", plain, plain).train, Split)  # type: ignore[arg-type]
    assert len(inputs) == len(targets)


def test_the_scale_of_a_part_is_that_of_its_images() -> None:
    data = small()
    chosen = torch.tensor([3, 5, 8, 13, 21])
    pixels = data.train.inputs[chosen].double()
    mean, std = data.mean_and_std(chosen)
    torch.testing.assert_close(mean, pixels.mean((0, 2, 3)), rtol=1e-14, atol=0)
    torch.testing.assert_close(std, pixels.std((0, 2, 3), correction=0), rtol=1e-13, atol=0)
    for found, alone in zip((mean, std), data.only(chosen).mean_and_std(), strict=True):
        assert torch.equal(found, alone)


def test_a_score_batch_of_one_class() -> None:
    data = small()
    found = data.score_batch(8, seed=0, label=1)
    assert found.targets.tolist() == [1] * 8
    assert len({bytes(image.numpy().data) for image in found.inputs}) == 8
    assert not torch.equal(found.inputs, data.score_batch(8, seed=1, label=1).inputs)
    with pytest.raises(pb.UserError, match="a score batch of 3 does not fit 2 training examples of class 3 of small"):
        data.score_batch(3, seed=0, label=3)


@pytest.mark.gpu
def test_inputs_that_stay_outside_a_device_train_alike() -> None:
    data = pb.load_data("digits")
    protocol = get_protocol("quick")
    curves = []
    for inputs in (True, False):
        there = data.to("cuda", inputs=inputs)
        model = pb.create_model("lenet", input_shape=(1, 28, 28), num_classes=10, seed=0).cuda()
        curves.append(trainer.train(model, there, protocol).epochs)
        assert there.score_batch(10, 0).inputs.is_cuda
    assert curves[0] == curves[1]


def test_a_validation_set_is_a_part_of_the_training_set() -> None:
    data = pb.load_data("digits")
    held = data.held_out(0.1)
    assert len(held.test.targets) == 135
    assert len(held.train.targets) == 1347 - 135
    both = torch.cat([held.train.inputs, held.test.inputs]).flatten(1)
    assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, data.train.inputs.flatten(1).numpy()))
    assert held.checksum == data.held_out(0.1).checksum != data.checksum
    with pytest.raises(pb.UserError, match="leaves one part empty"):
        data.held_out(1e-9)


def test_label_noise_is_uniform_over_classes_and_as_frequent_as_asked() -> None:
    targets = torch.zeros(40_000, dtype=torch.long)
    data = pb.DataSet("zeros", Split(torch.zeros(40_000, 1), targets), Split(torch.zeros(2, 1), targets[:2]), 4)
    noisy = data.noisy(0.6, seed=1).train.targets
    shares = torch.bincount(noisy, minlength=4) / 40_000
    # 0.4 keep their label, a quarter of the others draw it again; 5 standard deviations
    expected = torch.tensor([0.4 + 0.15, 0.15, 0.15, 0.15])
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / 40_000).sqrt()).all()
    assert not torch.equal(noisy, data.noisy(0.6, seed=2).train.targets)
    assert torch.equal(noisy, data.noisy(0.6, seed=1).train.targets)
    assert data.noisy(0.0, seed=1) is data


def test_random_numbers_of_a_function_of_ones_own_are_the_same_in_every_process() -> None:
    Path("mine.py").write_text(
        "import torch\nimport pai_bench as pb\n\ndef noise():\n    x = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])\n"
        "    return pb.DataSet('noise', x, x, label='Noise')\n"
    )
    state = torch.get_rng_state()
    found = pb.load_data("./mine.py:noise")
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.name, found.label) == (f"noise@{found.checksum[:8]}", "Noise")
    torch.manual_seed(0)  # for ever: results are stored under the checksum
    assert torch.equal(found.train.inputs, torch.randn(4, 3))
