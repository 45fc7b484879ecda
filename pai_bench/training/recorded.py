"""Training steps on a CUDA device, recorded as a graph and played again."""

import functools
import logging
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pai_bench.support.memory import no_memory, recorded_tensors
from pai_bench.support.torch_internals import release_failed_pool
from pai_bench.training.protocol import Protocol
from pai_bench.training.snapshot import beside_tensors
from pai_bench.training.step import Step
from pai_bench.training.trainable_groups import TrainableGroup

logger = logging.getLogger(__name__)

WARM_UP = 3
"""Steps before one is recorded: libraries are loaded in them, and memory is found."""

SYNCHRONISES = "called a synchronizing CUDA operation"
"""What torch warns of in its debug mode."""

RELEASES_BY_ITSELF = (2, 14)
"""The version of torch from which a graph whose recording failed gives its memory back (pytorch #180395, #190348)."""

unrecordable: set[tuple[type, int, type, str]] = set()
"""Kinds of programs whose steps cannot be recorded, in this process: each failure costs memory and time."""


class Recorded:
    """The first steps as they are, then one that is recorded as a graph and played again.

    Launching a graph costs the processor as much as launching one kernel, so that small networks keep the device busy.
    A step that cannot be recorded is taken as it is, every time: one that waits for the device, as a network does that
    turns a tensor into a number, and one that changes more than tensors in place, as a network does that counts in
    Python, replaces a buffer or draws on the processor, which would do none of it in a graph.
    """

    def __init__(self, step: Step) -> None:
        self.step, self._taken = step, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._state: list[object] = []
        """What the last step has left of the network beside the content of its tensors."""
        program = step.program
        self._kind = type(program), program.lanes, type(program.module), str(program.module)
        self._recordable = self._kind not in unrecordable

    @property
    def is_recorded(self) -> bool:
        """Whether steps are played by now."""
        return self._graph is not None

    def __call__(self, inputs: Tensor, targets: Tensor, rate: float) -> Tensor:
        """As `Step`."""
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
        """A step as it is, on the stream of the recording, which finds out whether it can be recorded."""

        def step() -> Tensor:
            return self.step(inputs, targets, self._rate)

        self._side.wait_stream(torch.cuda.current_stream(inputs.device))
        waits = False
        with torch.cuda.stream(self._side):
            if self._taken == WARM_UP:  # the first ones may wait for what is made only once
                losses, waits = watched(step)
            else:
                losses = step()
        torch.cuda.current_stream(inputs.device).wait_stream(self._side)
        if waits:
            unrecordable.add(self._kind)
        # the first step may fill what a network makes when it is first used
        before, self._state = self._state, beside_tensors(self.step.program.module, attributes=True)
        if waits or (self._taken > 1 and self._state != before):
            self._recordable = False
        if self._taken == WARM_UP:
            self._state = []
        return losses

    def _record(self, inputs: Tensor, targets: Tensor) -> bool:
        """Record a step, which is not taken thereby."""
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
        """Record into `graph`; what ended it, if it failed, as a text: an error would hold the tensors of the step."""
        try:
            # the recording would otherwise be made on the current device, whichever that is, and leave its stream the
            # current one if it fails
            device, side = torch.cuda.device(self._inputs.device), torch.cuda.stream(self._side)
            with device, side, torch.cuda.graph(graph, pool=pool, stream=self._side):
                self._losses = self.step(self._inputs, self._targets, self._rate)
        except RuntimeError as error:
            # the end of a failed recording raises an error of its own, whose context is the true one
            causes = list(chain(error))
            if not any(no_memory(cause) for cause in causes):
                unrecordable.add(self._kind)
            return str(causes[-1])
        return None


def chain(error: BaseException | None) -> Iterator[Exception]:
    """An error and those in the course of which it came, the first one last."""
    while error is not None:
        if isinstance(error, Exception):
            yield error
        error = error.__cause__ or error.__context__


@functools.cache
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all recordings on a device: libraries keep a workspace for every stream that they have seen."""
    return torch.cuda.Stream(device)


def watched(work: Callable[[], Tensor]) -> tuple[Tensor, bool]:
    """What `work` gives, and whether it made an operation that waits for the device."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            found = work()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    messages = [str(one.message) for one in seen]
    for one, message in zip(seen, messages, strict=True):
        if SYNCHRONISES not in message and "Synchronization debug mode" not in message:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return found, any(SYNCHRONISES in message for message in messages)


def release(graph: torch.cuda.CUDAGraph, pool: Any, device: torch.device) -> None:
    """Give back the memory of a graph whose recording has failed, which older versions of torch keep for ever."""
    torch.cuda.synchronize(device)
    graph.reset()
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < RELEASES_BY_ITSELF:
        release_failed_pool(device.index, pool)
        # the device's generator believes that a recording is under way, and draws nothing, until one has succeeded
        side, other = recording_stream(device), torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.stream(side), torch.cuda.graph(other, stream=side):
            zeros_on(device)
        other.reset()


def zeros_on(device: torch.device) -> None:
    """Something to record: an empty graph is warned of."""
    torch.zeros(1, device=device)


def step_for(
    program: TrainableGroup, protocol: Protocol, device: torch.device, *, compile: bool = False
) -> Step | Recorded:
    """The fastest way to take a step on `device`."""
    step = Step(program, protocol, compile=compile)
    return Recorded(step) if device.type == "cuda" else step
