"""What a record says of a trial, in sections: how it was pruned, how it was trained, what was measured at the end."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pai_bench.results.stored import IF_ANY, NEVER
from pai_bench.results.values import Amount, Count, Number, PositiveCount, Share


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One prunable parameter under the mask."""

    name: str
    size: PositiveCount
    kept: Count
    effective: Count | None = None
    """Connections that are kept and lie on a path from an input to an output."""
    shape: tuple[int, ...] = ()
    flops: int | None = None
    """Floating-point operations that the dense network does with this weight, for one example."""

    def fits_shape(self) -> bool:
        """Whether it has the size of its shape, which earlier records do not say."""
        return min(self.shape, default=1) > 0 and math.prod(self.shape) == self.size


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What was removed, and what that left of the network."""

    achieved_sparsity: Share | None = None
    effective_sparsity: Share | None = None
    node_sparsity: Share | None = field(default=None, metadata=IF_ANY)
    """Of a structured criterion: share of the units of all layers but the last that are removed."""
    weight_sparsity: Share | None = field(default=None, metadata=IF_ANY)
    """Of a structured criterion: share of the weights that the smaller network does not have."""
    flop_sparsity: Share | None = field(default=None, metadata=IF_ANY)
    """Of a structured criterion: share of the operations of a forward pass that the smaller network does not do."""
    fixed: Mapping[str, str] = field(default_factory=dict, metadata=IF_ANY)
    """Of a structured criterion: layers of which some or all units cannot be removed, with the reasons."""
    connected: bool | None = None
    dead_layers: tuple[str, ...] | None = None
    first_cut: str | None = None
    severed_shortcuts: tuple[str, ...] = ()
    score_seconds: Amount | None = None
    score_peak_bytes: Count | None = None
    batch_norm: str | None = None
    """The statistics that batch norm used while scoring, where that made a difference."""
    flops: Count | None = None
    """Floating-point operations of the dense network's forward pass of one example."""
    not_prunable: Count | None = None
    """Elements of the network's other parameters, which no mask removes: biases, scales, embeddings, kept layers."""
    not_scored: tuple[str, ...] = ()
    """Parameters from which the network may compute weights, and which no criterion was asked about."""
    mask: str | None = None
    """What is kept, as `pai_bench.results.bits` writes it, so that masks can be compared."""
    layers: tuple[Layer, ...] = ()
    whole_mask: bytes | None = field(default=None, repr=False, compare=False, metadata=NEVER)
    """Content of the file beside the record that has the whole mask where `mask` is a sample."""

    @property
    def flops_kept(self) -> float | None:
        """Floating-point operations that are left if products with removed weights are not made."""
        if self.flops is None or any(layer.flops is None for layer in self.layers):
            return None
        return self.flops - sum((layer.flops or 0) * (1 - layer.kept / layer.size) for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One point of the learning curve."""

    epoch: int
    train_loss: Number | None
    test_loss: Number | None
    test_accuracy: Share
    sparsity: Share | None = field(default=None, metadata=IF_ANY)
    """Of a method that prunes during training: share of the connections that are removed after it; None for 0, too."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the network was trained."""

    train_seconds: Amount | None = None
    images_per_second: Amount | None = None
    """Of training alone, without evaluation."""
    epochs: Count | None = None
    training_flops: Amount | None = field(default=None, metadata=IF_ANY)
    """Floating-point operations of all steps: three forward passes of what was left of the network, and more for dense
    gradients, if products with removed weights are not made."""
    trainings: Count | None = field(default=None, metadata=IF_ANY)
    """Of iterative pruning: how many trainings there were up to and with this one, that of the dense network too."""
    total_training_flops: Amount | None = field(default=None, metadata=IF_ANY)
    """Operations of all of these."""
    total_train_seconds: Amount | None = field(default=None, metadata=IF_ANY)
    events: Count | None = field(default=None, metadata=IF_ANY)
    """How many times the mask was changed during training."""
    event_steps: tuple[int, ...] = field(default=(), metadata=IF_ANY)
    """After how many steps each time."""
    event_seconds: Amount | None = field(default=None, metadata=IF_ANY)
    """Time of these changes, scoring included, which `train_seconds` leaves out."""
    curve: tuple[EpochRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured of the network after the last epoch, and what knowing nothing would give."""

    test_accuracy: Share | None = None
    test_loss: Number | None = None
    chance_loss: Amount | None = None
    """Entropy in nats of the training labels in use: the least loss of a network that does not look at its inputs."""
    chance_accuracy: Share | None = None
    """Share of the most frequent class in the test set."""
    metrics: Mapping[str, Number | str | None] = field(default_factory=dict, metadata=NEVER)
    """Further metrics by name, which are in a file of their own (`pai_bench.results.measurements`)."""
