"""Training batches of one or more trials on one data set on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pai_bench.data import DataSet
from pai_bench.data.augment import check_images, draw_flips, draw_flips_and_shifts, flip, flip_crop
from pai_bench.support.errors import UserError
from pai_bench.training.protocol import PADDING, Protocol

AT_ONCE = 2**20
"""Elements of the inputs of several small batches that are made at once."""


@dataclass(frozen=True)
class Order:
    """How a trial's batches are drawn: its seed, and the indices of its training examples (all if None).

    `labels`, of the whole training set, replace the true ones.
    """

    seed: int
    chosen: Tensor | None = None
    labels: Tensor | None = None


class Batches:
    """Epochs of whole batches, in each trial's own random order; the remaining examples of an epoch are left out.

    Order, mirroring and shifts of a trial depend on its seed alone, not on other trials or the device. With an
    `epoch_size`, an epoch has as many steps as one of so many examples, and goes through the training set again and
    again. Raises `UserError` for batches larger than the training set.
    """

    def __init__(
        self, data: DataSet, orders: Sequence[Order], protocol: Protocol, *, epoch_size: int | None = None
    ) -> None:
        self.data, self.protocol, self.lanes = data, protocol, len(orders)
        self.inputs, self.targets = data.train
        device = self.targets.device
        self.chosen = [None if order.chosen is None else order.chosen.to(device) for order in orders]
        sizes = {len(self.targets) if chosen is None else len(chosen) for chosen in self.chosen}
        if len(sizes) > 1:
            raise ValueError(f"trials with training sets of different sizes, {sorted(sizes)}, have no common batches")
        (self.size,) = sizes
        self.epoch_size = self.size if epoch_size is None else epoch_size
        self.per_epoch = self.epoch_size // protocol.batch_size
        if (protocol.iterations or protocol.epochs) and protocol.batch_size > self.size:
            raise UserError(
                f"batch size {protocol.batch_size} is larger than the {self.size} training examples of {data.name}"
            )
        # small batches are made together, since most of the time would be the overhead of operations
        elements = max(1, self.inputs[0].numel() * self.lanes * protocol.batch_size)
        self._at_once = max(1, AT_ONCE // elements)
        if protocol.augmentation != "none":
            check_images(self.inputs, data.name, protocol.augmentation)
        own = [self.targets if order.labels is None else order.labels for order in orders]
        self._labels = None if all(order.labels is None for order in orders) else torch.stack(own)
        self._streams = [torch.Generator().manual_seed(order.seed) for order in orders]
        self._drawn: list[Tensor] | None = None
        self._before_draw = self.epoch_state = self._states()
        """States of the generators of all trials, before the last draw and before that of the present epoch."""
        # each trial's own training images get mean 0 and standard deviation 1
        self.by_lane = self.inputs.dtype == torch.uint8 and any(chosen is not None for chosen in self.chosen)
        if self.by_lane:
            scales = [data.scale_of(chosen) for chosen in self.chosen]
            self._mean, self._std = (torch.stack(parts)[:, None] for parts in zip(*scales, strict=True))

    def _states(self) -> Tensor:
        return torch.stack([stream.get_state() for stream in self._streams])

    def restore(self, states: Tensor) -> None:
        """Begin the next epoch with generators in the `states` that `epoch_state` gave."""
        for stream, state in zip(self._streams, states, strict=True):
            stream.set_state(state.clone())  # torch crashes on rows of a matrix
        self._drawn = None

    def skip(self, count: int) -> int:
        """Leave out the first batches: whole epochs are drawn and dropped; how many are left out of the next one."""
        for _ in range(count // self.per_epoch if count else 0):
            self._draw()
        return count % self.per_epoch if count else 0

    def draw_ahead(self) -> None:
        """Draw the order of the next epoch now, while the device may still be busy with the present one."""
        if self._drawn is None:
            self._drawn = self._draw()

    def _draw(self) -> list[Tensor]:
        """Indices of an epoch's examples, (lanes, examples), and their augmentation."""
        self._before_draw, count = self._states(), self.per_epoch * self.protocol.batch_size
        drawn = [torch.stack([self._order(count, stream) for stream in self._streams])]
        if self.protocol.augmentation == "flip-crop":
            changes = zip(*(draw_flips_and_shifts(count, PADDING, stream) for stream in self._streams), strict=True)
            drawn += map(torch.stack, changes)
        elif self.protocol.augmentation == "flip-0.2":
            drawn.append(torch.stack([draw_flips(count, 0.2, stream) for stream in self._streams]))
        order, *augmentation = (self._sent(part) for part in drawn)
        order = torch.stack([o if c is None else c[o] for c, o in zip(self.chosen, order, strict=True)])
        return [order, *augmentation]

    def _order(self, count: int, stream: torch.Generator) -> Tensor:
        """Places of so many examples: the whole batches of one permutation after the other."""
        whole = self.size - self.size % self.protocol.batch_size
        passes = -(-count // whole) if count else 1
        return torch.cat([torch.randperm(self.size, generator=stream)[:whole] for _ in range(passes)])[:count]

    def _sent(self, part: Tensor) -> Tensor:
        """A tensor on the device, without waiting for it; not to be called while a step is recorded."""
        device = self.targets.device
        return part.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else part

    def epoch(self, skipped: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs (lanes, batch, ...), normalised, and targets (lanes, batch), batch by batch, after those `skipped`."""
        drawn, self._drawn = self._drawn or self._draw(), None
        self.epoch_state, batch = self._before_draw, self.protocol.batch_size
        if skipped == self.per_epoch:
            return
        # (batches, lanes, batch, ...), several batches at a time
        parts = [part.unflatten(1, (-1, batch)).transpose(0, 1)[skipped:].split(self._at_once) for part in drawn]
        for places, *change in zip(*parts, strict=True):
            inputs = self.inputs_at(places, *change)
            yield from zip(inputs, self.targets_at(places), strict=True)

    def endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of epoch after epoch, without end."""
        while True:
            yield from self.epoch()

    def targets_at(self, places: Tensor) -> Tensor:
        """The training labels at `places` (batches, lanes, batch)."""
        if self._labels is None:
            return self.targets[places]
        return self._labels[torch.arange(self.lanes, device=places.device)[:, None], places]

    def inputs_at(self, places: Tensor, *change: Tensor) -> Tensor:
        """The training inputs at `places` (batches, lanes, batch), with the augmentation `change`, if any."""
        # several times faster than indexing; inputs too large for the device are sent batch by batch
        images = self.inputs.index_select(0, places.flatten().to(self.inputs.device)).to(places.device)
        if len(change) == 2:
            flips, shifts = (part.flatten(0, 2) for part in change)
            images = flip_crop(images, flips, shifts, PADDING)
        elif change:
            images = flip(images, change[0].flatten())
        if not self.by_lane:
            return self.data.normalised(images).view(*places.shape, *images.shape[1:])
        return self.normalised(images.view(*places.shape, *images.shape[1:]))

    def normalised(self, inputs: Tensor) -> Tensor:
        """`inputs` normalised: for all lanes alike, or with `by_lane`, (lanes, batch, ...), by the scale of each."""
        if not self.by_lane:
            return self.data.normalised(inputs)
        return torch.sub(inputs.to(self._mean.device), self._mean).div_(self._std)
