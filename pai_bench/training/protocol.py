"""Protocols: the hyper-parameters of training. Does not import torch."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pai_bench.support.errors import UserError, unknown
from pai_bench.support.precision import Precision
from pai_bench.support.registry import PROTOCOLS
from pai_bench.support.spec import added_later, identity_fields

LearningRateSchedule = Literal["constant", "steps", "cosine", "one-cycle"]
Optimizer = Literal["sgd", "adam"]
Augmentation = Literal["none", "flip-crop", "flip-0.2"]

WARM_UP = 0.25
"""Share of the steps of a one-cycle schedule in which the learning rate rises."""

PADDING = 4
"""Pixels of zeros around an image before it is cropped to its size again, in the augmentation ``flip-crop``."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The hyper-parameters of training: an optimiser on the mean cross-entropy for a number of epochs.

    * `epochs`: whole epochs, at least 0; `iterations`: a number of steps, in place of epochs.
    * `optimizer`: ``sgd``, with `momentum`, `nesterov` or not, and `weight_decay`; or ``adam`` (Kingma and Ba 2015,
      arXiv:1412.6980), with beta1 = `momentum`, beta2 = 0.999 and `weight_decay` added to the gradient.
    * `lr_schedule`: ``constant``; ``steps``, times `gamma` at each of the `milestones` (shares of the training, in
      (0, 1)); ``cosine``, ``learning_rate * (1 + cos(pi t)) / 2`` for the share t of the steps; ``one-cycle``, linearly
      up for a quarter of the steps and linearly down to zero.
    * `augmentation`: ``none``; ``flip-crop``, half of the images mirrored, and all shifted by up to 4 pixels each way;
      or ``flip-0.2``, a fifth of the images mirrored.
    * `clip_norm`: the largest Euclidean norm of the gradient of all weights together, which is scaled down to it.
    * `budget`: the remaining share of the length of a protocol that was `scaled`.
    * `precision`: of matrix products (`pai_bench.support.precision`).

    `pai_bench.protocol` registers one and sets its `name`. Raises `UserError` for values out of range.
    """

    name: str = ""
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    lr_schedule: LearningRateSchedule = "one-cycle"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    iterations: int | None = added_later(None)
    optimizer: Optimizer = added_later("sgd")
    nesterov: bool = added_later(False)
    augmentation: Augmentation = added_later("none")
    clip_norm: float | None = added_later(None)
    budget: float = added_later(1.0)
    precision: Precision = added_later("fp32")
    train_fraction: float = 1.0
    """Share of the training set that is used by default. Not part of `settings`."""
    unstated: str = ""
    """What the paper does not state, appended to the description in reports. Not part of `settings`."""

    def __post_init__(self) -> None:
        for key, least in (("epochs", 0), ("batch_size", 1), ("iterations", 0)):
            if (value := getattr(self, key)) is not None and value < least:
                raise UserError(f"{key.replace('_', ' ')} {value} must be at least {least}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise UserError(f"learning rate {self.learning_rate} must be positive")
        if self.clip_norm is not None and not (0 < self.clip_norm < math.inf):
            raise UserError(f"clip norm {self.clip_norm} must be positive")
        if not (0 <= self.weight_decay < math.inf):
            raise UserError(f"weight decay {self.weight_decay} must be at least 0")
        shares = self.milestones if isinstance(self.milestones, (tuple, list)) else [None]
        if not all(isinstance(share, float) and 0 < share < 1 for share in shares):
            raise UserError(f"milestones {self.milestones!r} must be shares of the training, in (0, 1)")
        if not 0 <= self.momentum < 1 or (self.nesterov and not self.momentum):
            raise UserError(f"momentum {self.momentum} must be in [0, 1), and above 0 for nesterov")
        for key, literal in (
            ("lr_schedule", LearningRateSchedule),
            ("optimizer", Optimizer),
            ("augmentation", Augmentation),
            ("precision", Precision),
        ):
            if getattr(self, key) not in get_args(literal):
                raise unknown(key.replace("_", " "), getattr(self, key), get_args(literal))

    def steps(self, examples: int) -> int:
        """The number of steps on a training set of so many `examples`; an epoch has whole batches only."""
        return self.iterations if self.iterations is not None else self.epochs * (examples // self.batch_size)

    def passes(self, examples: int) -> int:
        """The number of epochs on a training set of so many `examples`, of which the last may be incomplete."""
        return -(-self.steps(examples) // max(1, examples // self.batch_size))

    def lasting(self, epochs: int) -> "Protocol":
        """The same protocol for a number of epochs."""
        return dataclasses.replace(self, epochs=epochs, iterations=None)

    def scaled(self, budget: float) -> "Protocol":
        """The same protocol at `budget`, in (0, 1], times its length, with milestones at the same shares."""
        if not 0 < budget <= 1:
            raise UserError(f"budget {budget:g} is outside (0, 1]: it is the share of the protocol's length")
        if budget == 1:
            return self

        def part(length: int) -> int:
            return length and max(1, round(budget * length))

        iterations = None if self.iterations is None else part(self.iterations)
        length = self.epochs if self.iterations is None else self.iterations
        share = part(length) / length if length else 1.0  # no epoch is shorter than one
        return dataclasses.replace(self, epochs=part(self.epochs), iterations=iterations, budget=share * self.budget)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of `step`, in 0..`steps` - 1."""
        done = step / steps
        if self.lr_schedule == "steps":
            return self.learning_rate * self.gamma ** sum(done >= m for m in self.milestones)
        if self.lr_schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * done)) / 2
        if self.lr_schedule == "one-cycle":
            middle = (step + 0.5) / steps  # so that neither the first nor the last step has the rate 0
            return self.learning_rate * min(middle / WARM_UP, (1 - middle) / (1 - WARM_UP))
        return self.learning_rate

    def settings(self) -> dict[str, Any]:
        """The identity of this protocol in results, as plain values: fields that were added later only if changed."""
        # the name has no influence, and the share of the training set is a setting of the trial
        left_out = {"name", "unstated", "train_fraction"} | ({"epochs"} if self.iterations is not None else set())
        settings = {key: value for key, value in identity_fields(self).items() if key not in left_out}
        return settings | {"milestones": list(self.milestones)}

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Protocol":
        """The protocol with these `settings`, as `settings()` returns them."""
        return cls(**{"epochs": 0, **settings})

    def describe(self) -> str:
        """A description in one line."""
        return ", ".join(self.parts())

    def parts(self) -> tuple[str, ...]:
        """The parts of the description."""
        count, unit = (self.epochs, "epoch") if self.iterations is None else (self.iterations, "iteration")
        length = f"{count:,} {unit}{'s' * (count != 1)}"
        if self.budget != 1:
            length += f" ({100 * self.budget:.3g} % of the protocol's length)"
        steps = f" at {', '.join(map(str, self.milestones))}, times {self.gamma:g}" if self.milestones else ""
        momentum = f"{'Nesterov ' * self.nesterov}momentum {self.momentum:g}"
        parts = [length, f"batch {self.batch_size}", {"sgd": "SGD", "adam": "Adam"}[self.optimizer]]
        parts += [f"learning rate {self.learning_rate:g} ({self.lr_schedule}{steps})"]
        parts += [momentum, f"weight decay {self.weight_decay:g}"]
        changes = {"flip-crop": ["mirrored and shifted images"], "flip-0.2": ["a fifth of the images mirrored"]}
        parts += changes.get(self.augmentation, [])
        parts += [] if self.clip_norm is None else [f"gradients of norm {self.clip_norm:g} at most"]
        parts += [] if self.precision == "fp32" else [f"in {self.precision}"]
        return tuple(parts)


DEFAULT, DEFAULT_WITH_BATCH_NORM = "short-adam", "short-adam-bn"
"""The default protocols, for networks without and with batch norm.

Adam begins to train sparse networks, whose gradients are small, in as many steps as dense ones. With SGD, a short
comparison shows only which networks have begun to train. Batch norm lets a deep network reach its accuracy in a
fraction of the epochs.
"""

UNKNOWN = "; the number of iterations is not in the paper, 100,000 is our choice"
"""`Protocol.unstated` of the protocols of the SNIP paper."""

BUILT_IN = {
    "pai-bench": (
        Protocol(name=DEFAULT, epochs=10, batch_size=32, optimizer="adam", learning_rate=0.005, weight_decay=0.0),
        Protocol(
            name=DEFAULT_WITH_BATCH_NORM,
            epochs=2,
            batch_size=32,
            optimizer="adam",
            learning_rate=0.002,
            weight_decay=0.0,
        ),
        Protocol(name="short", epochs=10, batch_size=32, learning_rate=0.02),
        Protocol(name="short-bn", epochs=2, batch_size=32, learning_rate=0.02),
        Protocol(name="quick", epochs=1, batch_size=100, learning_rate=0.05),
    ),
    # times 0.1 every 25,000 (MNIST) or 30,000 (CIFAR) iterations; how many there are in all is not in the text
    "Lee et al. 2019, arXiv:1810.02340, section 5": (
        Protocol(
            name="snip-mnist",
            epochs=0,
            iterations=100_000,
            batch_size=100,
            learning_rate=0.1,
            lr_schedule="steps",
            milestones=(0.25, 0.5, 0.75),
            train_fraction=0.9,
            unstated=UNKNOWN,
        ),
        Protocol(
            name="snip-cifar",
            epochs=0,
            iterations=150_000,
            batch_size=128,
            learning_rate=0.1,
            lr_schedule="steps",
            milestones=(0.2, 0.4, 0.6, 0.8),
            augmentation="flip-crop",
            train_fraction=0.9,
        ),
    ),
    # which differ from the text: no momentum, no drops of the learning rate
    "Lee et al. 2019, the defaults of their code": (
        Protocol(
            name="snip-mnist-code",
            epochs=0,
            iterations=10_000,
            batch_size=100,
            learning_rate=0.1,
            momentum=0.0,
            lr_schedule="constant",
            train_fraction=0.9,
        ),
    ),
    # iterations and drops of the learning rate as above are our choice
    "Lee et al. 2019, arXiv:1810.02340, section 5.5": (
        Protocol(
            name="snip-mnist-adam",
            epochs=0,
            iterations=100_000,
            batch_size=100,
            optimizer="adam",
            learning_rate=1e-3,
            weight_decay=0.0,
            lr_schedule="steps",
            milestones=(0.25, 0.5, 0.75),
            train_fraction=0.9,
            unstated=f"{UNKNOWN}, and so are the drops of the learning rate",
        ),
    ),
    "Verdenius et al. 2020, arXiv:2006.00896, the defaults of their code": (
        Protocol(
            name="snip-it",
            epochs=80,
            batch_size=512,
            optimizer="adam",
            learning_rate=2e-3,
            weight_decay=5e-5,
            lr_schedule="constant",
            augmentation="flip-0.2",
            clip_norm=10.0,
        ),
    ),
    "Tanaka et al. 2020, arXiv:2006.05467, appendix": (
        Protocol(
            name="synflow-cifar",
            nesterov=True,
            epochs=160,
            batch_size=128,
            learning_rate=0.1,
            weight_decay=1e-4,
            lr_schedule="steps",
            milestones=(60 / 160, 120 / 160),
            augmentation="flip-crop",
        ),
    ),
    "Frankle et al. 2021, arXiv:2009.08576, appendix, as the code OpenLTH has it": (
        Protocol(
            name="openlth-resnet20",
            epochs=160,
            batch_size=128,
            learning_rate=0.1,
            weight_decay=1e-4,
            lr_schedule="steps",
            milestones=(0.5, 0.75),
            augmentation="flip-crop",
        ),
    ),
    # as their code has it, which decays batch norm and biases, too
    "Renda et al. 2020, arXiv:2003.02389, ResNets on CIFAR-10": (
        Protocol(
            name="rewinding-cifar",
            epochs=182,
            batch_size=128,
            learning_rate=0.1,
            weight_decay=2e-4,
            lr_schedule="steps",
            milestones=(91 / 182, 136 / 182),
            augmentation="flip-crop",
        ),
    ),
    # times 0.2 after 30,000, 60,000 and 90,000 iterations, of 250 epochs. The code does not decay batch norm or biases,
    # reflects images at their edges before it shifts them, and normalises each by its own mean and deviation
    "Evci et al. 2020, arXiv:1911.11134, section 4.3, as their code has it": (
        Protocol(
            name="rigl-cifar",
            nesterov=True,
            epochs=0,
            iterations=97_656,
            batch_size=128,
            learning_rate=0.1,
            lr_schedule="steps",
            milestones=(0.3072, 0.6144, 0.9216),
            gamma=0.2,
            augmentation="flip-crop",
        ),
    ),
    # the same on 45,000 images, so that 250 epochs have 88,000 iterations
    "Sundar & Dwaraknath 2021, arXiv:2103.15767, as their code has it": (
        Protocol(
            name="rigl-cifar-reproduced",
            nesterov=True,
            epochs=0,
            iterations=88_000,
            batch_size=128,
            learning_rate=0.1,
            lr_schedule="steps",
            milestones=(0.3409, 0.68181),
            gamma=0.2,
            augmentation="flip-crop",
            train_fraction=0.9,
        ),
    ),
}
"""Source -> its protocols."""

for _source, _protocols in BUILT_IN.items():
    for _protocol in _protocols:
        PROTOCOLS.register(_protocol.name, source=_source, module=__name__)(_protocol)


def get_protocol(name: str, **changes: Any) -> Protocol:
    """The protocol called `name`, with the `changes` that are not None. A number of epochs replaces iterations.

    Raises `UserError` for an unknown name, with the nearest known ones, and for values out of range.
    """
    if (protocol := PROTOCOLS.get(name)) is None:
        raise unknown("protocol", name, PROTOCOLS)
    assert isinstance(protocol, Protocol)
    changes = {key: value for key, value in changes.items() if value is not None}
    if "epochs" in changes:
        changes["iterations"] = None
    return dataclasses.replace(protocol, **changes) if changes else protocol
