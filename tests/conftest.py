"""Networks, batches and fixtures that many tests use."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.support.environment import HARMLESS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` without a CUDA device; with one, ignore harmless warnings of torch."""
    # the last one comes from functions without a batched form on CUDA; it concerns only their speed
    harmless = [*map(re.escape, HARMLESS), "There is a performance drop because we have not yet implemented the batch"]
    for item in items:
        if item.get_closest_marker("gpu"):
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
            for message in harmless:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{message}"))


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Do not use the cache and data of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("PAI_BENCH_DATA", raising=False)
        yield


def settings_of_torch() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
    }


@pytest.fixture
def _settings_are_left() -> Iterator[None]:
    """A number of threads that a test leaves behind makes all later ones many times slower.

    It is looked at when what a test has replaced is as it was.
    """
    before = settings_of_torch()
    yield
    assert settings_of_torch() == before


@pytest.fixture(autouse=True)
def _in_an_empty_folder(_settings_are_left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty folder, into which relative paths are written."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def orthogonal_is_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw normal weights where they would be orthogonal, which takes ten seconds for a matrix of 4096 x 4096."""

    def draw(tensor: Tensor, gain: float = 1.0) -> Tensor:
        return nn.init.normal_(tensor, std=gain / tensor[0].numel() ** 0.5)

    monkeypatch.setattr(nn.init, "orthogonal_", draw)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.bn1(self.conv1(x)))
        x = torch.tanh(self.bn2(self.conv2(x)) + x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.lstm(x)[0][:, -1])
        return logits


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.encoder(x).mean(1))
        return logits


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.tanh(self.second(F.softplus(self.first(x)))))
        return logits


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 2, 3, groups=2, bias=False),
        nn.BatchNorm2d(2),
        nn.Softplus(),
        nn.Conv2d(2, 4, 1, bias=False),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


# the networks of the tests are far too small for several threads; this holds for subprocesses too
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# the time of an example depends on how busy the machine is, not on whether the code is correct
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (6,)),
    "cnn": (cnn, (2, 6, 6)),
    "residual": (Residual, (2, 6, 6)),
    "depthwise": (depthwise, (2, 6, 6)),
    "lstm": (Recurrent, (5, 4)),
    "transformer": (Transformer, (5, 4)),
    "tied": (Tied, (4,)),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, pb.Batch]:
    """Each of the small networks, in float64, with a batch of 12 examples of 3 classes."""
    build, shape = NETWORKS[request.param]
    torch.manual_seed(0)
    model = build().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # at initialisation, it would be the identity
            assert module.weight is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean = torch.randn_like(module.weight).detach() / 4
    return model, pb.Batch(torch.randn(12, *shape, dtype=torch.float64), torch.arange(12) % 3)
