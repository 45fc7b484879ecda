"""Floors of training: the matrix products of the layers alone, and a usual training loop with a DataLoader."""

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from pai_bench.support.timing import synchronise

Product = Callable[[], Any]


def layer_products(model: nn.Module, example: Tensor, batch: int, *, to_input: bool) -> list[Product]:
    """The products of a training step, layer by layer: forward, and backward to weights and to inputs.

    Linear and convolutional layers only, each in the memory format that is fastest for it. The product of the first
    layer for its input, `to_input`, is not needed in a training step.
    """
    calls: list[tuple[nn.Module, torch.Size]] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, _out: calls.append((module, inputs[0].shape)))
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    model.eval()(example)
    for handle in handles:
        handle.remove()
    products = []
    for index, (module, shape) in enumerate(calls):
        first = index == 0 and not to_input
        variants = list(products_by_format(module, torch.Size([batch, *shape[1:]]), example, first=first))
        products.append(min(variants, key=lambda variant: shortest_time(variant, example.device)))
    return products


def products_by_format(module: nn.Module, shape: torch.Size, like: Tensor, *, first: bool) -> Iterator[Product]:
    """The three products of a layer, in each memory format that it can have."""
    x, weight = torch.randn(shape, device=like.device), module.weight.detach().clone()  # type: ignore[operator]
    if isinstance(module, nn.Linear):
        gradient = torch.randn(*shape[:-1], weight.shape[0], device=like.device)
        yield lambda: (x @ weight.T, gradient.T @ x, None if first else gradient @ weight)
        return
    assert isinstance(module, nn.Conv2d)
    for memory in (torch.contiguous_format, torch.channels_last):
        inputs, kernel = x.contiguous(memory_format=memory), weight.contiguous(memory_format=memory)
        gradient = torch.randn_like(convolve(module, inputs, kernel))

        def forward_and_backward(inputs: Tensor = inputs, kernel: Tensor = kernel, gradient: Tensor = gradient) -> Any:
            options = (module.stride, module.padding, module.dilation, False, (0, 0), module.groups)
            output_mask = (not first, True, False)
            backward = torch.ops.aten.convolution_backward(gradient, inputs, kernel, None, *options, output_mask)
            return convolve(module, inputs, kernel), backward

        yield forward_and_backward


def convolve(module: nn.Conv2d, inputs: Tensor, kernel: Tensor) -> Tensor:
    """The convolution of `module` with another kernel, without bias."""
    size = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
    return F.conv2d(inputs, kernel, None, groups=module.groups, **size)  # type: ignore[arg-type]


def shortest_time(work: Product, device: torch.device, times: int = 3) -> float:
    """Seconds of the shortest of some runs, after a warm-up run."""
    seconds = []
    for _ in range(times + 1):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def repeat_products(products: list[Product], steps: int) -> Product:
    """A function that computes the products of each layer `steps` times, layer by layer."""

    def work() -> None:
        for product in products:
            for _ in range(steps):
                product()

    return work


def write_mnist(root: Path, count: int) -> None:
    """Write files in the format of MNIST, with random pixels."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "t10k"):
        images = torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 10, (count,), generator=generator, dtype=torch.uint8)
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.numpy().tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.numpy().tobytes())


class Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images in one array; each access makes a PIL image and transforms it, as the data sets of torchvision do."""

    def __init__(self, images: Tensor, targets: Tensor, *, augment: bool) -> None:
        self.images = images.permute(0, 2, 3, 1).squeeze(3).contiguous().numpy()  # uint8, channels last or none
        self.targets = targets.tolist()
        channels = images.shape[1]
        augmentation = (
            [transforms.RandomCrop(images.shape[-1], padding=4), transforms.RandomHorizontalFlip()] if augment else []
        )
        self.transform = transforms.Compose(
            [*augmentation, transforms.ToTensor(), transforms.Normalize((0.5,) * channels, (0.25,) * channels)]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.targets[index]


def usual_steps(pictures: Pictures, model: nn.Module, batch: int, device: torch.device, workers: int) -> Iterator[None]:
    """An endless series of training steps with a DataLoader and torch's SGD, as usually written."""
    loader = torch.utils.data.DataLoader(
        pictures,
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    model.train()
    while True:
        for inputs, targets in loader:
            optimizer.zero_grad()
            inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            yield


def usual_loop(root: Path, model: nn.Module, batch: int, device: torch.device, workers: int) -> Product:
    """An epoch over the files in `root` with torchvision's data set and transforms, a DataLoader and torch's SGD."""
    scale = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    data = torchvision.datasets.MNIST(str(root), train=True, transform=scale)
    loader = torch.utils.data.DataLoader(data, batch_size=batch, shuffle=True, num_workers=workers, drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        model.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs.to(device)), targets.to(device)).backward()
            optimizer.step()

    return epoch
