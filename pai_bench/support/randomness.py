"""Random states: seeded for a block and restored after it, or kept as tensors."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Seed Python, numpy and torch inside the block, and restore their states after it."""
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # else torch.manual_seed would leave a seed behind for when it is
            torch.cuda.manual_seed_all(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


def generator_states(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the default generators of torch, Python and numpy, and of that of a CUDA `device`."""
    _, words, gauss = random.getstate()
    _, keys, *rest = np.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([*words, gauss is not None, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*map(float, keys), *map(float, rest)], dtype=torch.float64),
    }
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_generators(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Set the default generators to the states that `generator_states` gave."""
    torch.set_rng_state(states["torch"])
    *words, has_gauss, gauss = states["python"].tolist()
    random.setstate((random.getstate()[0], tuple(map(int, words)), gauss if has_gauss else None))
    *keys, position, has_gauss, gauss = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), int(position), int(has_gauss), gauss))
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
