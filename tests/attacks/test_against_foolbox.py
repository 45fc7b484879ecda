"""DeepFool and Carlini-Wagner beside those of foolbox, on a small convolutional network."""

import importlib
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pai_bench.attacks import Examples, PenaltySearch, carlini_wagner, deepfool, norms

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports modules of scipy by their former names
    foolbox: Any = importlib.import_module("foolbox")


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Examples]:
    """A network that tells four patterns in noise apart, and examples that it names rightly."""
    draw = torch.Generator().manual_seed(0)
    patterns = torch.rand(4, 1, 8, 8, generator=draw)
    labels = torch.arange(400) % 4
    inputs = (0.5 * patterns[labels] + 0.5 * torch.rand(400, 1, 8, 8, generator=draw)).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
        )
        optimiser = torch.optim.Adam(network.parameters(), 0.01)
        for _ in range(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(inputs), labels).backward()
            optimiser.step()
    network.eval().requires_grad_(False)
    examples = Examples.first(inputs, labels)
    return network, examples.at((network(inputs).argmax(1) == labels).nonzero().squeeze(1)[:25])


def theirs(attack: Any, network: nn.Module, examples: Examples) -> Tensor:
    """The Euclidean norms of what an attack of foolbox finds."""
    model = foolbox.PyTorchModel(network, bounds=(0, 1))
    _, clipped, success = attack(model, examples.inputs, examples.labels, epsilons=None)
    assert bool(success.all())
    return norms(clipped - examples.inputs, "l2")


def test_deepfool(trained: tuple[nn.Module, Examples]) -> None:
    network, examples = trained
    found = deepfool(network, examples, refine=False)
    expected = theirs(foolbox.attacks.L2DeepFoolAttack(), network, examples)
    assert found.fooled.all()
    torch.testing.assert_close(norms(found.inputs - examples.inputs, "l2"), expected, rtol=0.02, atol=0)


@pytest.mark.slow
def test_carlini_wagner(trained: tuple[nn.Module, Examples]) -> None:
    """The median agrees; no example is further by more than two per cent."""
    network, examples = trained
    found = carlini_wagner(network, examples, PenaltySearch(searches=6, steps=250))
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=6, steps=250, abort_early=False)
    expected = theirs(attack, network, examples)
    assert found.fooled.all()
    ratio = norms(found.inputs - examples.inputs, "l2") / expected
    assert float(ratio.max()) < 1.02
    assert float(ratio.median()) == pytest.approx(1, abs=0.02)
