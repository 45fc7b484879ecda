"""Robust accuracy: the worst that several attacks do to each example."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from pai_bench.attacks.ball import Ball
from pai_bench.attacks.ensemble import autoattack
from pai_bench.attacks.examples import Adversaries, Examples
from pai_bench.attacks.gradient_attacks import fgsm, pgd
from pai_bench.attacks.losses import Network, cross_entropy, margin, predicted, towards_target, without_label
from pai_bench.attacks.random_search import random_search

Attack = Callable[[Examples], Adversaries]
"""An attack on a network within a ball."""

ON_ALL = ("fgsm", "pgd")
"""Attacks that are made on all examples that are right, so that they can be compared; the others on what is left."""


@dataclass(frozen=True)
class Effort:
    """How much is tried: steps and starts of gradient descent, targets of targeted ones, queries of a random search."""

    steps: int
    starts: int
    targets: int
    queries: int
    examples: int
    """Of the test set, the first ones."""
    checked: int
    """Of these, those on which the search without gradients, and twice the effort, are tried."""


EFFORTS = {"quick": Effort(20, 1, 3, 300, 500, 100), "full": Effort(50, 5, 9, 5000, 1000, 1000)}


@dataclass(frozen=True, eq=False)
class Verdict:
    """What attacks have done to some examples, each a mask (N,)."""

    right: Tensor
    """Named as their label without any attack."""
    predictions: Tensor
    """The classes that they are named as without any attack."""
    adversaries: Tensor
    """An input of each example that fools the network, or that was the last try."""
    fooled: dict[str, Tensor] = field(default_factory=dict)
    """By each attack, in the order of the attacks, of those that are right; of the examples that it was made on."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each attack."""

    @property
    def robust(self) -> Tensor:
        """Right, and fooled by no attack."""
        found = self.right.clone()
        for fooled in self.fooled.values():
            found &= ~fooled
        return found

    def first_fooled_by(self, attack: str) -> Tensor:
        """Fooled by this attack, and by none before it."""
        names = list(self.fooled)
        found = self.fooled[attack].clone()
        for name in names[: names.index(attack)]:
            found &= ~self.fooled[name]
        return found

    @property
    def accuracy(self) -> float:
        """The share that is right without attack."""
        return float(self.right.double().mean())

    @property
    def robust_accuracy(self) -> float:
        """The share that is right, and that no attack fools."""
        return float(self.robust.double().mean())

    def accuracy_under(self, attack: str) -> float:
        """The share that is right, and that this attack does not fool."""
        return float((self.right & ~self.fooled[attack]).double().mean())


@dataclass(frozen=True)
class Attacker:
    """Attacks a network, so many examples `at_once`.

    `leave` is false where all attacks are made on all examples to the end, which costs more, and finds the same. With
    `ensemble`, AutoAttack is the last of the attacks.
    """

    network: Network
    ball: Ball
    effort: Effort
    at_once: int = 250
    leave: bool = True
    ensemble: bool = False

    def attacks(self) -> Iterator[tuple[str, Attack]]:
        """The attacks of a verdict that follow gradients, cheapest first."""
        yield "fgsm", partial(fgsm, self.network, ball=self.ball)
        descent = partial(pgd, self.network, ball=self.ball, steps=self.effort.steps, leave=self.leave)
        starts = range(self.effort.starts)
        for name, loss in (("pgd", cross_entropy), ("pgd-margin", margin)):
            yield from ((name, partial(descent, loss=loss, start=start)) for start in starts)
        for rank in range(self.effort.targets):
            yield from (("pgd-targeted", partial(self.targeted, rank=rank, start=start)) for start in starts)

    def targeted(self, examples: Examples, rank: int, start: int) -> Adversaries:
        """Descent towards the class that is at a `rank` among the most likely other ones."""
        logits = without_label(self.network(examples.inputs), examples.labels)
        if rank >= logits.shape[1] - 1:
            return Adversaries(examples.inputs, torch.zeros_like(examples.labels, dtype=torch.bool))
        aimed = replace(examples, targets=logits.topk(rank + 1, 1).indices[:, rank])
        steps = self.effort.steps
        return pgd(self.network, aimed, self.ball, towards_target, steps=steps, start=start, leave=self.leave)

    def search(self, examples: Examples, seed: int = 0) -> Adversaries:
        """The search without gradients."""
        queries = self.effort.queries
        return random_search(self.network, examples, self.ball, queries=queries, seed=seed, leave=self.leave)

    def run(self, attack: Attack, examples: Examples) -> Adversaries:
        """An attack, chunk by chunk."""
        if not len(examples):
            return Adversaries(examples.inputs, torch.zeros_like(examples.labels, dtype=torch.bool))
        return Adversaries.joined([attack(chunk) for chunk in examples.chunks(self.at_once)])

    def is_checked(self, examples: Examples) -> Tensor:
        """On which examples the search without gradients and twice the effort are tried: the first ones, (N,)."""
        return torch.arange(len(examples), device=examples.labels.device) < self.effort.checked

    def checked(self, examples: Examples) -> int:
        """How many these are, one at least."""
        return max(1, min(self.effort.checked, len(examples)))

    @torch.no_grad()
    def predictions(self, inputs: Tensor) -> Tensor:
        """The classes that inputs are named as, (N,)."""
        return torch.cat([predicted(self.network(part)) for part in inputs.split(self.at_once)])

    @torch.no_grad()
    def verdict(self, examples: Examples) -> Verdict:
        """All attacks that follow gradients, and the search on the first of the examples; each on those not fooled yet.

        The attacks `ON_ALL` are made on all that are right.
        """
        predictions = self.predictions(examples.inputs)
        right = predictions == examples.labels
        made = Verdict(right, predictions, examples.inputs.clone())
        last: list[tuple[str, Attack]] = [("search", self.search)]
        if self.ensemble:
            last.append(("autoattack", partial(autoattack, self.network, ball=self.ball, at_once=self.at_once)))
        for name, attack in (*self.attacks(), *last):
            among = self.is_checked(examples) if name == "search" else torch.ones_like(right)
            self._attack(made, name, attack, examples, among)
        return made

    def _attack(self, made: Verdict, name: str, attack: Attack, examples: Examples, among: Tensor) -> None:
        """Make one attack, and note what it does."""
        fooled = made.fooled.setdefault(name, torch.zeros_like(made.right))
        stays = made.right if not self.leave else made.right & ~fooled if name in ON_ALL else made.robust
        left = stays & among
        begin = time.perf_counter()
        found = self.run(attack, examples.at(left))
        made.seconds[name] = made.seconds.get(name, 0.0) + time.perf_counter() - begin
        was_robust, places = made.robust, left.nonzero().squeeze(1)
        new = was_robust[places]
        made.adversaries[places[new]] = found.inputs[new]
        fooled[places] |= found.fooled
