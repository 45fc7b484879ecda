"""`DataSet`: a classification data set, whole, as tensors."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pai_bench.data.labels import LabelNoise, Noise, NoiseLaw, balanced_counts, random_labels, rank_in_class
from pai_bench.support import spec
from pai_bench.support.arrays import as_tensor, hint_for, list_labels, on_cpu
from pai_bench.support.errors import UserError

IN_CACHE = 2**18
"""Pixels that are looked at together."""


class Split(NamedTuple):
    """Examples: `inputs` of shape (N, ...), uint8 images or ready floats, and class indices `targets` (N,)."""

    inputs: Tensor
    targets: Tensor

    def at(self, places: Tensor) -> "Split":
        """The examples at some places, in their order."""
        return Split(*(tensor[places.to(tensor.device)] for tensor in self))


@dataclass(frozen=True, eq=False)
class DataSet:
    """A named data set with a training and a test split.

    Images are uint8 of shape (N, channels, height, width); `normalised` turns them into floats. Inputs of any other
    type and shape are taken as they are, except that float64, which numpy makes, becomes torch's default type. Arrays
    of numpy become tensors. `label` is the name for people, the default being `name`. Without `num_classes`, the labels
    of both splits together must be 0, 1, 2, ... without gaps. `noise` is what `noisy` has replaced, where it has.
    """

    name: str
    train: Split
    test: Split
    num_classes: int = 0
    label: str = ""
    noise: LabelNoise | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise UserError(f"a data set needs a name, a text, not {self.name!r}")
        for part in ("train", "test"):
            pair, what = getattr(self, part), f"data set {self.name}: {part}"
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise UserError(f"{what} must be a pair (inputs, targets), not {type(pair).__name__}{hint_for(pair)}")
            inputs, targets = (as_tensor(x, f"{what} {role}") for x, role in zip(pair, Split._fields, strict=True))
            if inputs.dtype == torch.uint8 and inputs.dim() < 2:
                raise UserError(f"data set {self.name}: uint8 images need the shape (N, channels, ...)")
            if inputs.dim() == 0 or len(inputs) == 0 or targets.shape != (len(inputs),) or targets.is_floating_point():
                shapes = f"{tuple(inputs.shape)} inputs, {tuple(targets.shape)} targets"
                raise UserError(f"data set {self.name}: {part} needs one class index for each input, got {shapes}")
            object.__setattr__(self, part, Split(inputs.detach(), targets.long()))
        if len({(split.inputs.shape[1:], split.inputs.dtype) for split in (self.train, self.test)}) > 1:
            raise UserError(f"data set {self.name}: training and test inputs differ in shape or type")
        labels = torch.cat([self.train.targets, self.test.targets.to(self.device)])
        lowest, highest = int(labels.min()), int(labels.max())
        count = spec.convert(self.num_classes, int, f"data set {self.name}: num_classes")
        object.__setattr__(self, "num_classes", count or highest + 1)
        gaps = not count and len(torch.unique(labels)) <= highest
        if self.num_classes < 2 or lowest < 0 or highest >= self.num_classes or gaps:
            raise UserError(
                f"data set {self.name}: the labels are {list_labels(labels)}"
                + (f" with num_classes={count}" if count else "")
                + "; class indices are 0, 1, 2, ... without gaps, two at least: number them in both splits by "
                "torch.searchsorted(torch.unique(train_targets), targets)"
                + ("" if count else ", or give num_classes= where a class has no example")
            )
        object.__setattr__(self, "label", self.label or self.name)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, channels first."""
        return tuple(self.train.inputs.shape[1:])

    @on_cpu
    def mean_and_std(self, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Per-channel mean and standard deviation of the uint8 training images, on the scale 0..255, in float64.

        Of the `chosen` ones alone, all of them for None.
        """
        sums, squares = (part if chosen is None else part[chosen.to(part.device)] for part in self._sums)
        count = max(1, len(sums) * self.train.inputs[0, 0].numel())
        # in whole numbers of any length: count^2 variance = count sum(x^2) - sum(x)^2 exactly
        pairs = list(zip(sums.sum(0).tolist(), squares.sum(0).tolist(), strict=True))
        mean = torch.tensor([total / count for total, _ in pairs], dtype=torch.float64)
        variance = [(count * square - total**2) / count**2 for total, square in pairs]
        std = torch.tensor([math.sqrt(v) for v in variance], dtype=torch.float64)
        return mean, torch.where(std > 0, std, 1.0)

    @cached_property
    def _sums(self) -> tuple[Tensor, Tensor]:
        """Sum of the pixels, and of their squares, of each training image and channel: of any subset, they are sums."""
        images = self.train.inputs.unsqueeze(-1).flatten(2)
        sums, squares = (torch.empty(images.shape[:2], dtype=torch.float64, device=images.device) for _ in range(2))
        size = max(1, IN_CACHE // max(1, images[0].numel()))
        # double precision holds whole numbers up to 2^53 exactly; one buffer, since many would leave holes in memory
        buffer = torch.empty(images[:size].shape, dtype=torch.float64, device=images.device)
        for start in range(0, len(images), size):
            part = images[start : start + size]
            pixels = buffer[: len(part)].copy_(part)
            torch.sum(pixels, 2, out=sums[start : start + size])
            torch.sum(pixels.square_(), 2, out=squares[start : start + size])
        return sums.long(), squares.long()

    def normalised(self, inputs: Tensor) -> Tensor:
        """`inputs` as a network takes them, on `device`.

        uint8 images have mean 0 and deviation 1 over the training set.
        """
        inputs = inputs.to(self.device)
        if inputs.dtype != torch.uint8:
            dtype = torch.get_default_dtype() if inputs.dtype == torch.float64 else inputs.dtype
            return inputs.to(dtype, copy=True)  # a network may begin with an operation in place
        mean, std = self.scale
        return torch.sub(inputs, mean).div_(std)

    def example(self) -> Tensor:
        """One example as a network takes it, (1, ...)."""
        return self.normalised(self.train.inputs[:1])

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """`mean_and_std` on the data's device, in the shape of one example; kept, since every batch needs them."""
        return self.scale_of(None)

    def scale_of(self, chosen: Tensor | None) -> tuple[Tensor, Tensor]:
        """`scale` of the `chosen` training images alone."""
        images = self.train.inputs
        shape = (-1, *(1,) * (images.dim() - 2))
        mean, std = (t.float().to(self.device).view(shape) for t in self.mean_and_std(chosen))
        return mean, std

    @property
    def nbytes(self) -> int:
        """Bytes of all examples and labels."""
        return sum(tensor.nbytes for tensor in (*self.train, *self.test))

    @cached_property
    def checksum(self) -> str:
        """The first 16 hexadecimal digits of a SHA-256 over all examples and labels."""
        digest = hashlib.sha256()
        for tensor in (*self.train, *self.test):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @property
    def device(self) -> torch.device:
        """Where normalised inputs and targets are; the inputs themselves may be too large for it."""
        return self.train.targets.device

    def to(self, device: torch.device | str, *, inputs: bool = True) -> "DataSet":
        """The same data set, resident on `device`; without `inputs`, these stay where they are until they are used."""
        train, test = (
            Split(split.inputs.to(device) if inputs else split.inputs, split.targets.to(device))
            for split in (self.train, self.test)
        )
        noise = self.noise and LabelNoise(*(part.to(device) for part in self.noise))
        return dataclasses.replace(self, train=train, test=test, noise=noise)

    def train_size(self, fraction: float) -> int:
        """How many training examples a `fraction` of them is, at least one."""
        return max(1, round(fraction * len(self.train.targets)))

    def subset(self, fraction: float, seed: int, *, balanced: bool = False) -> "DataSet":
        """The same data set with a random `fraction` of the training examples, drawn with `seed`."""
        return self.only(self.chosen(fraction, seed, balanced=balanced))

    @on_cpu
    def chosen(self, fraction: float, seed: int, *, balanced: bool = False) -> Tensor | None:
        """Which examples `subset` takes, in their order; None for all.

        Those of a smaller fraction are among those of a larger one. `balanced`: of each class its share, by largest
        remainder, so that the same holds of each class of which the larger fraction does not take less.
        """
        if fraction == 1.0:
            return None
        targets, size = self.train.targets.cpu(), self.train_size(fraction)
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
        if balanced:
            sizes = torch.bincount(targets, minlength=self.num_classes)
            counts = torch.tensor(balanced_counts(sizes.tolist(), size))
            order = order[rank_in_class(targets[order], self.num_classes) < counts[targets[order]]]
        return order[:size].sort().values.to(self.train.targets.device)

    def only(self, chosen: Tensor | None) -> "DataSet":
        """The same data set with the `chosen` training examples, all of them for None."""
        if chosen is None:
            return self
        noise = self.noise and LabelNoise(*(part[chosen.to(part.device)] for part in self.noise))
        return dataclasses.replace(self, train=self.train.at(chosen), noise=noise)

    @on_cpu
    def held_out(self, share: float) -> "DataSet":
        """The same data set without its test set, whose place a `share` of the training set takes: always the same."""
        count = len(self.train.targets)
        out = round(share * count)
        if not 0 < out < count:
            raise UserError(f"validation {share:g} of {count} training examples of {self.name} leaves one part empty")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        held, kept = (self.only(part.sort().values) for part in (order[:out], order[out:]))
        label = f"{self.label}, tested on {100 * share:.4g} % of its training set"
        return dataclasses.replace(kept, test=held.train, label=label)

    @on_cpu
    def noisy(self, noise: Noise, seed: int, *, law: NoiseLaw = "bernoulli", among: Tensor | None = None) -> "DataSet":
        """The same data set, some training labels of which are replaced by labels drawn from all classes with `seed`.

        Each is with the probability `noise`, as in Zhang et al. 2017, arXiv:1611.03530; or by the law ``exact``, a
        random ``round(noise * n)`` of n labels are. A drawn label may be the true one. ``permute``: all labels are
        permuted. Only examples `among` some are counted and changed; all for None. `noise` says what was changed.
        """
        if not noise:
            return self
        true = self.train.targets.cpu()
        places = torch.arange(len(true)) if among is None else among.cpu()
        targets, drawn = true.clone(), torch.zeros(len(true), dtype=torch.bool)
        generator = torch.Generator().manual_seed(seed)
        targets[places], drawn[places] = random_labels(true[places], self.num_classes, noise, law, generator)
        train = Split(self.train.inputs, targets.to(self.device))
        return dataclasses.replace(self, train=train, noise=LabelNoise(self.train.targets, drawn.to(self.device)))

    @on_cpu
    def score_batch(self, size: int, seed: int, *, balanced: bool = True, label: int | None = None) -> Split:
        """`size` normalised training examples drawn with `seed`; `balanced`: as many of each class as it goes.

        With a `label`, of this class alone.
        """
        targets = self.train.targets.cpu()
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
        if label is not None:
            order = order[targets[order] == label]
        if not 1 <= size <= len(order):
            what = "training examples" + ("" if label is None else f" of class {label}")
            raise UserError(f"a score batch of {size} does not fit {len(order)} {what} of {self.name}")
        if balanced and label is None:
            rank = rank_in_class(targets[order], self.num_classes)  # equal ranks stay in random order
            order = order[rank.argsort(stable=True)]
        batch = self.train.at(order[:size])
        return Split(self.normalised(batch.inputs), batch.targets)
