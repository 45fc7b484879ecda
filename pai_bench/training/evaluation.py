"""Loss and accuracy of networks that are trained together."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pai_bench.data import Split
from pai_bench.training.trainable_groups import TrainableGroup

EVALUATION_BATCH, AT_ONCE = 1000, 4_000
"""Examples in a batch of the test set, and at most in all lanes, or as many as in a step, whose memory suffices."""

AT_ONCE_ON_CUDA = 2**28
"""Elements of the inputs of all lanes on a CUDA device, at most: 1 GiB. Small batches would leave it idle."""

STEPS_AT_ONCE = 3
"""On a CUDA device, the examples of at most so many steps are evaluated at once, in about the memory of one step."""


def evaluated_at_once(split: Split, step: int) -> int:
    """Examples that go through all lanes at once in evaluation; `step` is their number in a training step."""
    if split.targets.device.type == "cpu":
        return max(AT_ONCE, step)
    most = AT_ONCE_ON_CUDA // max(1, split.inputs[0].numel())
    return max(step, min(most, max(AT_ONCE, STEPS_AT_ONCE * step)))


@torch.inference_mode()
def evaluate_lanes(
    program: TrainableGroup,
    split: Split,
    normalised: Callable[[Tensor], Tensor],
    *,
    by_lane: bool,
    at_once: int = AT_ONCE,
    on_batch: Callable[[], None] = lambda: None,
) -> list[tuple[float, float]]:
    """Mean cross-entropy and accuracy (in [0, 1]) of each lane on `split`, normalised alike or `by_lane`."""
    device = split.targets.device
    loss = torch.zeros(program.lanes, dtype=torch.float64, device=device)
    correct = torch.zeros(program.lanes, dtype=torch.int64, device=device)
    batch = max(1, min(EVALUATION_BATCH, at_once // program.lanes))
    for inputs, targets in zip(*(t.split(batch) for t in split), strict=True):
        logits, labels = program.logits(normalised(inputs), by_lane=by_lane), targets.expand(program.lanes, -1)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        loss += losses.view(labels.shape).sum(1, dtype=torch.float64)
        correct += (logits.argmax(2) == labels).sum(1)
        on_batch()
    size = len(split.targets)
    return [(total / size, right / size) for total, right in zip(loss.tolist(), correct.tolist(), strict=True)]
