"""Training steps on a CUDA device, recorded as a graph and replayed."""

import functools
import logging
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pai_bench.support.memory import is_out_of_memory, recorded_tensors
from pai_bench.support.torch_internals import release_failed_pool
from pai_bench.training.protocol import Protocol
from pai_bench.training.snapshot import non_tensor_state
from pai_bench.training.step import Step
from pai_bench.training.trainable_groups import TrainableGroup

logger = logging.getLogger(__name__)

WARM_UP = 3
"""Steps before the recording, in which libraries are loaded and memory is allocated."""

SYNCHRONISES = "called a synchronizing CUDA operation"
"""Part of torch's warning in its debug mode."""

RELEASES_BY_ITSELF = (2, 14)
"""First version of torch in which a failed recording releases its memory (pytorch #180395, #190348)."""

unrecordable: set[tuple[type, int, type, str]] = set()
"""Keys of groups whose steps cannot be recorded, in this process, since each failure costs memory and time."""


class Recorded:
    """A `Step` that is recorded as a graph after its first calls, and then replayed.

    Launching a graph takes as long as launching one kernel, so that small networks keep the device busy. Some steps
    cannot be recorded: those that wait for the device, as in a network that converts a tensor to a number, and those
    that change more than tensors in place, as in a network that counts in Python, replaces a buffer or draws random
    numbers on the processor, which a graph would not do. They run without a graph.
    """

    def __init__(self, step: Step) -> None:
        self.step, self._taken = step, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._state: list[object] = []
        """The state of the network beside the values of its tensors, after the last step."""
        program = step.program
        self._key = type(program), program.lanes, type(program.module), str(program.module)
        self._recordable = self._key not in unrecordable

    @property
    def plain(self) -> Step:
        """The step that is recorded."""
        return self.step

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those of the `Step`."""
        return self.step.tensors

    @property
    def is_recorded(self) -> bool:
        """Whether steps are replayed."""
        return self._graph is not None

    def __call__(self, inputs: Tensor, targets: Tensor, rate: float) -> Tensor:
        """The losses (lanes,) before the step, as of `Step`."""
        if self._taken == 0:
            self._rate = torch.tensor(rate, device=inputs.device)
            self._side = recording_stream(inputs.device)
        self._rate.fill_(rate)
        self._taken += 1
        if self._graph is not None:
            self._inputs.copy_(inputs)
            self._targets.copy_(targets)
            self._graph.replay()
            return self._losses.clone()
        if self._taken <= WARM_UP:
            return self._warm_up(inputs, targets)
        if self._taken == WARM_UP + 1 and self._recordable and self._record(inputs, targets):
            return self(inputs, targets, rate)
        return self.step(inputs, targets, self._rate)

    def _warm_up(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """A step without a graph, on the stream of the recording; finds out whether it can be recorded."""

        def step() -> Tensor:
            return self.step(inputs, targets, self._rate)

        self._side.wait_stream(torch.cuda.current_stream(inputs.device))
        waits = False
        with torch.cuda.stream(self._side):
            if self._taken == WARM_UP:  # the first ones may wait for the device once
                losses, waits = detect_synchronization(step)
            else:
                losses = step()
        torch.cuda.current_stream(inputs.device).wait_stream(self._side)
        # the first step may create attributes
        before, self._state = self._state, non_tensor_state(self.step.program.module, attributes=True)
        if waits or (self._taken > 1 and self._state != before):
            self._recordable = False
        if self._taken == WARM_UP:
            self._state = []
        return losses

    def _record(self, inputs: Tensor, targets: Tensor) -> bool:
        """Record a step, without running it."""
        self._inputs, self._targets = inputs.clone(), targets.clone()
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        failure = self._capture(graph, pool)
        if failure is None:
            self._graph = graph
            module = self.step.program.module
            for tensor in (*module.parameters(), *module.buffers()):
                recorded_tensors[tensor] = weakref.ref(self)
            return True
        logger.debug("the step cannot be recorded: %s", failure)
        release(graph, pool, inputs.device)
        return False

    def _capture(self, graph: torch.cuda.CUDAGraph, pool: Any) -> str | None:
        """Record into `graph`; returns the text of an error, since an exception would keep the tensors alive."""
        try:
            # otherwise it would use the current device, and leave its stream the current one if it fails
            device, side = torch.cuda.device(self._inputs.device), torch.cuda.stream(self._side)
            with device, side, torch.cuda.graph(graph, pool=pool, stream=self._side):
                self._losses = self.step(self._inputs, self._targets, self._rate)
        except RuntimeError as error:
            # the end of a failed recording raises another error, whose context is the original one
            causes = list(causes_of(error))
            if not any(is_out_of_memory(cause) for cause in causes):
                unrecordable.add(self._key)
            return str(causes[-1])
        return None


def causes_of(error: BaseException | None) -> Iterator[Exception]:
    """An error and its causes and contexts, the first error last."""
    while error is not None:
        if isinstance(error, Exception):
            yield error
        error = error.__cause__ or error.__context__


@functools.cache
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all recordings on a device, a single one, since libraries keep a workspace for each stream."""
    return torch.cuda.Stream(device)


def detect_synchronization(work: Callable[[], Tensor]) -> tuple[Tensor, bool]:
    """The result of `work`, and whether it waited for the device."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            result = work()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    messages = [str(warning.message) for warning in seen]
    for warning, message in zip(seen, messages, strict=True):
        if SYNCHRONISES not in message and "Synchronization debug mode" not in message:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return result, any(SYNCHRONISES in message for message in messages)


def release(graph: torch.cuda.CUDAGraph, pool: Any, device: torch.device) -> None:
    """Release the memory of a graph whose recording has failed, which older versions of torch never do."""
    torch.cuda.synchronize(device)
    graph.reset()
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < RELEASES_BY_ITSELF:
        release_failed_pool(device.index, pool)
        # until a recording succeeds, the device's generator takes it as running and draws nothing
        side, other = recording_stream(device), torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.stream(side), torch.cuda.graph(other, stream=side):
            recordable_operation(device)
        other.reset()


def recordable_operation(device: torch.device) -> None:
    """An operation to record, since torch warns of an empty graph."""
    torch.zeros(1, device=device)


def step_for(
    program: TrainableGroup, protocol: Protocol, device: torch.device, *, compile: bool = False
) -> Step | Recorded:
    """A training step for `program`, on a CUDA device recorded as a graph."""
    step = Step(program, protocol, compile=compile)
    return Recorded(step) if device.type == "cuda" else step
