"""Data sets: sizes, splits, normalisation, score batches, files of every kind, and damaged ones."""

import dataclasses
import io
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pai_bench as pb
from pai_bench.data import Split, downloads
from pai_bench.data.digits import raw_digits
from pai_bench.training import trainer
from pai_bench.training.protocol import get_protocol
from tests.data.files import PETS, png, write_folder


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


def write_idx(path: Path, array: np.ndarray) -> None:
    """A file of MNIST's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    )


def write_mnist(root: Path) -> None:
    """A tiny MNIST where torchvision looks for it."""
    for part, count in (("train", 30), ("t10k", 10)):
        folder = root / "MNIST" / "raw"
        write_idx(folder / f"{part}-images-idx3-ubyte", np.arange(count * 784).reshape(count, 28, 28) % 251)
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)


def test_mnist_from_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    data = pb.load_data("mnist", data_dir=tmp_path)
    assert (data.name, data.input_shape, len(data.train.targets)) == ("mnist", (1, 28, 28), 30)
    assert data.train.inputs[1].flatten()[:3].tolist() == [784 % 251, 785 % 251, 786 % 251]
    monkeypatch.setenv("PAI_BENCH_DATA", str(tmp_path))
    assert pb.load_data("mnist").checksum == data.checksum


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_or_missing_file_is_named(name: str, keep: int, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[: min(keep, path.stat().st_size - 1)])
    with pytest.raises(pb.UserError, match=r"MNIST: the files in .*raw are incomplete or damaged"):
        pb.load_data("mnist", data_dir=tmp_path)
    path.unlink()
    with pytest.raises(pb.UserError, match=r"MNIST: the files in .*raw are incomplete or damaged"):
        pb.load_data("mnist", data_dir=tmp_path)


def test_a_failed_download_says_how_to_help_oneself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import mnist

    def no_network(*_args: object, **_options: object) -> None:
        raise mnist.URLError("no network")

    monkeypatch.setattr(mnist, "download_and_extract_archive", no_network)
    with pytest.raises(pb.UserError, match=r"MNIST: .* download failed .*--data-dir or PAI_BENCH_DATA"):
        pb.load_data("mnist", data_dir=tmp_path)


MORE = PETS | {"train/dog/2.png": png(6)}


def test_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pb.load_data(f"folder:{write_folder(tmp_path / 'pets', PETS)}")
    assert data.name == f"folder:pets@{data.checksum[:8]}"
    assert data.input_shape == (3, 2, 3)
    assert data.train.targets.tolist() == [0, 0, 1]
    assert data.train.inputs[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert data.test.inputs[:, 0, 0, 0].tolist() == [4, 5]
    relative = pb.load_data("folder:pets", data_dir=tmp_path)
    assert relative.name == data.name
    other = write_folder(tmp_path / "here", {f"pets/{name}": content for name, content in MORE.items()})
    monkeypatch.chdir(other)
    for data_dir in (None, tmp_path):  # the current folder comes first
        assert len(pb.load_data("folder:pets", data_dir=data_dir).train.targets) == 4


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    files = {f"{part}/{name}/1.png": png(9, "L") for part in ("train", "test") for name in ("a", "b")}
    assert pb.load_data(f"folder:{write_folder(tmp_path / 'grey', files)}").input_shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train/cat/3.png": png(1, size=(4, 4))},
            r"train/cat/3.png is \(4, 4, 3\), but train/cat/1.png is \(2, 3, 3\)",
        ),
        ({"train/cat/3.png": b"nonsense"}, r"train/cat/3.png cannot be read as an image"),
        ({"train/cat/3.ppm": b"P6\n"}, r"train/cat/3.ppm cannot be read as an image"),
        ({"train/cat/3.png": png(1, "I;16")}, r"train/cat/3.png has pixels of mode I;16; images need 8 bits"),
        ({"train/cow/1.gif": b""}, r"has no images \(.bmp, .jpeg.*\) in train/cow/: remove that class, or add some"),
        ({"train/cat/3.png": png(1)[:40]}, r"train/cat/3.png cannot be read as an image"),
        ({"val/bird/1.png": png(1)}, r"class 'bird' of val/bird/1.png has no training images"),
    ],
)
def test_a_folder_with_a_bad_file(change: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(pb.UserError, match=message):
        pb.load_data(f"folder:{write_folder(tmp_path / 'pets', PETS | change)}")


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(pb.UserError, match="does not exist"):
        pb.load_data(f"folder:{tmp_path / 'none'}")
    with pytest.raises(pb.UserError, match=r"has no images in train/CLASS"):
        pb.load_data(f"folder:{tmp_path}")
    with pytest.raises(pb.UserError, match="has no images in test or val/CLASS"):
        pb.load_data(f"folder:{write_folder(tmp_path / 'a', {'train/cat/1.png': png(1)})}")
    with pytest.raises(pb.UserError, match=r"has one class, 'cat', in train/"):
        pb.load_data(f"folder:{write_folder(tmp_path / 'b', {'train/cat/1.png': png(1), 'test/cat/1.png': png(2)})}")


def test_cifar10_from_an_archive_of_images_is_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "cifar10-images.tar.gz", "w:gz") as tar:
        for name, content in (PETS | {"train/cat/._1.png": b"what a system leaves behind"}).items():
            info = tarfile.TarInfo(f"cifar10-images/{name.replace('val', 'test')}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(pb.UserError, match=r"has 3 training and 2 test images, not 50,000 and 10,000; delete it"):
        pb.load_data("cifar10", data_dir=tmp_path)
    monkeypatch.setattr(downloads, "CIFAR10_FACTS", dataclasses.replace(downloads.CIFAR10_FACTS, train=3, test=2))
    data = pb.load_data("cifar10", data_dir=tmp_path)
    assert (data.name, data.label, data.num_classes) == ("cifar10-jpeg", "CIFAR-10 (JPEG)", 10)
    assert data.train.inputs[:, 0, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_truncated_archive_is_named(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "cifar10-images.tar.gz"
    noise = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as tar:
        for i in range(20):
            info = tarfile.TarInfo(f"cifar10-images/{'train' if i % 2 else 'test'}/cat/{i}.bmp")
            file = io.BytesIO()
            Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "BMP")
            info.size = len(file.getvalue())
            file.seek(0)
            tar.addfile(info, file)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(pb.UserError, match=r"cifar10-images.tar.gz is truncated or no tar archive"):
        pb.load_data("cifar10", data_dir=tmp_path)


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    files = PETS | {"train/.ipynb_checkpoints/1.png": png(1), "train/cat/.trash/2.png": png(2)}
    assert pb.load_data(f"folder:{write_folder(tmp_path / 'pets', files)}").num_classes == 2
    files = PETS | {f"{part}/.ipynb_checkpoints/1.txt": b"notes" for part in ("train", "test")}
    assert len(pb.load_data(f"folder:{write_folder(tmp_path / 'more', files)}").test.targets) == 2  # those of val


def test_only_the_test_images_are_for_the_test_and_only_trained_classes_count(tmp_path: Path) -> None:
    files = PETS | {"test/cat/1.png": png(50), "test/dog/deep/2.png": png(51), "unlabeled/zebra/1.png": png(1)}
    data = pb.load_data(f"folder:{write_folder(tmp_path / 'three', files)}")
    assert data.num_classes == 2
    assert data.test.inputs[:, 0, 0, 0].tolist() == [50, 51]
    unlabelled = PETS | {"test/images/1.png": png(7)}
    assert len(pb.load_data(f"folder:{write_folder(tmp_path / 'tiny', unlabelled)}").test.targets) == 2


def test_links_in_folders_of_images_are_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = pb.load_data(f"folder:{write_folder(tmp_path / 'plain' / 'pets', PETS)}")
    kept = write_folder(tmp_path / "kept", PETS)
    linked = write_folder(tmp_path / "pets", {"train/cat/2.png": PETS["train/cat/2.png"], "train/cat/a/.hidden": b""})
    (linked / "train/cat/1").symlink_to(kept / "train/cat/1.png")  # no name of an image
    (linked / "train/cat/1.png").symlink_to(kept / "train/cat/1.png")
    (linked / "train/dog").symlink_to(kept / "train/dog")
    (linked / "val").symlink_to("../kept/val")
    found = pb.load_data(f"folder:{linked}")
    assert found.checksum == plain.checksum
    assert found.name == plain.name
    (linked / "train/cat/more").symlink_to(kept / "train/dog")
    assert pb.load_data(f"folder:{linked}").train.targets.tolist() == [0, 0, 0, 1]
    (linked / "train/cat/broken.png").symlink_to("nowhere")
    assert pb.load_data(f"folder:{linked}").train.targets.tolist() == [0, 0, 0, 1]
    assert "broken.png is left out: it is a link to nothing" in caplog.text


@pytest.mark.parametrize("target", ["..", "../..", "../../..", ".", "../../../elsewhere"])
def test_links_in_a_circle_are_named(target: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", PETS)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "back").symlink_to(root / "train")
    (root / "train/cat/circle").symlink_to(target)
    with pytest.raises(pb.UserError, match=r"(circle|back) leads back to a folder that it is in: remove the link"):
        pb.load_data(f"folder:{root}")


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


def test_only_the_formats_of_images_that_are_named_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another format called .png: EPS would start Ghostscript."""
    from PIL import EpsImagePlugin

    eps = io.BytesIO()
    Image.new("RGB", (3, 2)).save(eps, "eps")
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args: started.append(args))
    root = write_folder(tmp_path / "d", {f"{p}/{c}/1.png": png(1) for p in ("train", "test") for c in "ab"})
    (root / "train" / "a" / "2.png").write_bytes(eps.getvalue())
    with pytest.raises(pb.UserError, match=r"train/a/2.png cannot be read as an image"):
        pb.load_data(f"folder:{root}")
    assert not started


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "ppm", "pgm", "tif", "webp"])
def test_every_named_format_is_decoded(suffix: str, tmp_path: Path) -> None:
    image = io.BytesIO()
    kind = {"jpg": "jpeg", "tif": "tiff", "pgm": "ppm"}.get(suffix, suffix)
    Image.new("L" if suffix == "pgm" else "RGB", (4, 4)).save(image, kind)
    files = {f"{part}/{label}/1.{suffix}": image.getvalue() for part in ("train", "test") for label in "ab"}
    assert len(pb.load_data(f"folder:{write_folder(tmp_path / 'd', files)}").train.targets) == 2


def test_mnist_is_not_read_from_processed(tmp_path: Path) -> None:
    """Where old versions of torchvision kept what they had decoded, anybody may have put anything."""
    write_mnist(tmp_path)
    before = pb.load_data("mnist", data_dir=tmp_path).checksum
    (tmp_path / "MNIST" / "processed").mkdir()
    for name in ("training", "test"):
        other = torch.zeros(5, 28, 28, dtype=torch.uint8), torch.arange(5)
        torch.save(other, tmp_path / "MNIST" / "processed" / f"{name}.pt")
    assert pb.load_data("mnist", data_dir=tmp_path).checksum == before


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
