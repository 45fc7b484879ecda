"""What scoring must leave as it was."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def state(model: nn.Module) -> dict[str, Any]:
    """Everything about a model and the process that scoring must not change."""
    return {
        "tensors": {name: t.detach().clone() for name, t in model.state_dict().items()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": {name: m.training for name, m in model.named_modules()},
        "hooks": {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()},
        "identity": {name: id(p) for name, p in model.named_parameters()},
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state()),
    }


def assert_same(before: Any, after: Any) -> None:
    """Equality, bit for bit, through dicts, sequences and tensors."""
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            assert_same(before[key], after[key])
    elif isinstance(before, Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, tuple):
        for a, b in zip(before, after, strict=True):
            assert_same(a, b)
    else:
        assert before == after
