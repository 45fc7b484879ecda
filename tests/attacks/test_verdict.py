"""Which attacks are made on which examples, and that nothing depends on the others."""

import pytest
import torch
from torch import Tensor, nn

from pai_bench.attacks import Attacker, Ball, Effort, Examples, norms, pgd, random_search
from pai_bench.attacks.losses import margin

EFFORT = Effort(steps=10, starts=2, targets=3, queries=30, examples=80, checked=40)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 5))
    return made.double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def examples(network: nn.Module) -> Examples:
    """Every eighth has another label than the network gives."""
    inputs = torch.rand(80, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = network(inputs).argmax(1)
    labels[::8] = (labels[::8] + 1) % 5
    return Examples.first(inputs, labels)


def seen_by(network: nn.Module) -> tuple[nn.Module, list[int]]:
    """The network, and how many examples each of its calls has."""
    sizes: list[int] = []

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return network(x)  # type: ignore[no-any-return]

    return Counted(), sizes


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fooled_examples_leave_and_nothing_changes(norm: str, network: nn.Module, examples: Examples) -> None:
    ball = Ball(norm, 0.02 if norm == "linf" else 0.2)  # type: ignore[arg-type]
    counted, sizes = seen_by(network)
    left = Attacker(counted, ball, EFFORT, at_once=80).verdict(examples)
    passes, sizes[:] = sum(sizes), []
    stayed = Attacker(counted, ball, EFFORT, at_once=80, leave=False).verdict(examples)
    by_sevens = Attacker(network, ball, EFFORT, at_once=7).verdict(examples)
    assert passes < 0.9 * sum(sizes)
    for other in (stayed, by_sevens):
        assert torch.equal(other.robust, left.robust)
        assert all(torch.equal(other.fooled[name], left.fooled[name]) for name in ("fgsm", "pgd"))
        assert torch.equal(other.adversaries, left.adversaries)
    assert {name: part.tolist() for name, part in by_sevens.fooled.items()} == {
        name: part.tolist() for name, part in left.fooled.items()
    }
    assert 0 < int(left.robust.sum()) < int(left.right.sum())
    found = norms(left.adversaries - examples.inputs, ball.norm)
    assert float(found.max()) <= ball.eps * (1 + 1e-12)
    assert float(left.adversaries.min()) >= 0
    assert float(left.adversaries.max()) <= 1
    fooled = left.right & ~left.robust
    assert (network(left.adversaries).argmax(1) != examples.labels)[fooled].all()


def test_who_is_attacked(network: nn.Module, examples: Examples) -> None:
    made = Attacker(network, Ball("linf", 0.02), EFFORT).verdict(examples)
    assert list(made.fooled) == ["fgsm", "pgd", "pgd-margin", "pgd-targeted", "search"] == list(made.seconds)
    assert made.right.tolist() == [number % 8 > 0 for number in range(80)]
    assert not any((fooled & ~made.right).any() for fooled in made.fooled.values())
    assert (made.fooled["fgsm"] & made.fooled["pgd"]).any()  # on all, to be compared
    first = made.fooled["fgsm"] | made.fooled["pgd"]
    assert not (made.fooled["pgd-margin"] & first).any()
    assert not made.fooled["search"][40:].any()
    assert made.accuracy == 70 / 80
    assert made.accuracy_under("fgsm") == (70 - int(made.fooled["fgsm"].sum())) / 80
    assert made.robust_accuracy == int(made.robust.sum()) / 80


def test_nothing_is_fooled_without_room(network: nn.Module, examples: Examples) -> None:
    made = Attacker(network, Ball("linf", 0.0), EFFORT).verdict(examples)
    assert torch.equal(made.robust, made.right)
    assert torch.equal(made.adversaries, examples.inputs)


@pytest.mark.parametrize("shape", [(3, 8, 8), (192,), (2, 6, 16), (1, 1, 192)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_search_without_gradients(
    norm: str, shape: tuple[int, ...], network: nn.Module, examples: Examples
) -> None:
    """Of images, of vectors, of sequences; what it has fooled is so, and it fools more with more queries."""
    ball = Ball(norm, 0.05 if norm == "linf" else 0.5)  # type: ignore[arg-type]
    right = examples.at((torch.arange(80) % 8 > 0).nonzero().squeeze(1))
    flat = Examples(right.inputs.view(-1, *shape), right.labels, right.places)

    def reshaped(x: Tensor) -> Tensor:
        return network(x.view(-1, 3, 8, 8))  # type: ignore[no-any-return]

    found = [int(random_search(reshaped, flat, ball, queries=queries).fooled.sum()) for queries in (0, 20, 100)]
    assert found[0] < found[2]
    assert found[1] <= found[2]
    one = random_search(reshaped, flat, ball, queries=20)
    assert torch.equal(reshaped(one.inputs).argmax(1) != flat.labels, one.fooled)
    assert float(norms(one.inputs - flat.inputs, ball.norm).max()) <= ball.eps * (1 + 1e-12)


def test_random_starts_are_within_the_ball_and_differ(examples: Examples) -> None:
    centres = torch.full((500, 1, 4, 4), 0.5, dtype=torch.float64)
    places = torch.arange(500)
    box = Ball("linf", 0.2).drawn(centres, places, 2) - 0.5
    assert float(box.abs().max()) <= 0.2
    assert float(box.abs().mean()) == pytest.approx(0.1, rel=0.03)
    round_ = norms(Ball("l2", 0.2).drawn(centres, places, 2) - 0.5, "l2")
    assert float(round_.max()) <= 0.2
    # of 16 dimensions, the radius is r u^(1/16), whose mean is 16/17 r
    assert float(round_.mean()) == pytest.approx(0.2 * 16 / 17, rel=0.01)
    some = Ball("linf", 0.2).drawn(centres[:3], places[7:10], 2) - 0.5
    assert torch.equal(some, box[7:10])
    assert not torch.equal(Ball("linf", 0.2).drawn(centres[:3], places[7:10], 4) - 0.5, some)


def test_all_iterates_are_looked_at() -> None:
    """Adversaries lie on the way alone: the last iterate is right again."""

    def network(x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([torch.where((mean > 0.53) & (mean < 0.56), mean - 2, mean), 0 * mean], 1)

    inputs = torch.full((4, 1, 4, 4), 0.7, dtype=torch.float64)
    examples = Examples.first(inputs, torch.zeros(4, dtype=torch.long))
    found = pgd(network, examples, Ball("linf", 0.3), margin, steps=30)
    assert found.fooled.all()
    assert ((found.inputs.flatten(1).mean(1) > 0.53) & (found.inputs.flatten(1).mean(1) < 0.56)).all()
