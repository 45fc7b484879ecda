"""Which steps are recorded, on which device and stream, and what is left of a failure: with a device that is made up.

What a real device gives is tested where there is one (`test_step`).
"""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from pai_bench.networks.private_copy import shared, still_shared
from pai_bench.training import recorded
from pai_bench.training.protocol import Protocol
from pai_bench.training.recorded import WARM_UP, Recorded, causes_of, detect_synchronization, step_for
from pai_bench.training.step import Step
from pai_bench.training.trainable_groups import SingleModel

PROTOCOL = Protocol(name="test", epochs=1, batch_size=4, learning_rate=0.1)


class Stream:
    def __init__(self) -> None:
        self.waited_for: list[Stream] = []

    def wait_stream(self, other: "Stream") -> None:
        self.waited_for.append(other)


class Graph:
    """A graph that is not recorded, but takes the step each time."""

    def __init__(self, device: "Device") -> None:
        self.device, self.resets = device, 0

    def replay(self) -> None:
        self.device.replays += 1
        step = self.device.recorded
        step._losses = step.step(step._inputs, step._targets, step._rate)

    def reset(self) -> None:
        self.device.log.append("reset")


class Device:
    """Stands for torch.cuda: notes what it is asked, and fails where a recording would."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.mode: Any = 0
        self.replays, self.recording = 0, False
        self.fails: str | None = None
        self.default = self.now = Stream()
        self.recorded: Recorded

    def wait(self) -> None:
        """What a network does that turns a tensor into a number."""
        if self.recording:
            raise RuntimeError("operation not permitted when stream is capturing")
        if self.mode == "warn":
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)

    def current(self, device: torch.device) -> Any:
        self.log.append(("device", device))
        return nullcontext()

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def graph(self, graph: Graph, *, stream: Stream, pool: Any = None) -> Iterator[None]:
        self.log.append(("record", pool, stream))
        before, self.now = self.now, stream
        with self.recorded_step():
            yield
        self.now = before  # torch leaves it, too, where the recording has failed

    @contextmanager
    def recorded_step(self) -> Iterator[None]:
        step = self.recorded.step
        changed = [*step.weights, *step.tensors.values()]
        before = [(tensor, tensor.detach().clone()) for tensor in changed]
        self.recording = True
        try:
            yield
            if self.fails is not None:
                raise RuntimeError(self.fails)
        finally:
            self.recording = False
            with torch.no_grad():
                for tensor, value in before:  # nothing is computed while a step is recorded
                    tensor.copy_(value)

    def set_mode(self, mode: Any) -> None:
        self.mode = mode
        if mode == "warn":
            warnings.warn("Synchronization debug mode is a prototype feature", UserWarning, stacklevel=1)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    found = Device()
    cuda = torch.cuda
    monkeypatch.setattr(recorded, "unrecordable", set())
    monkeypatch.setattr(cuda, "Stream", lambda _device: Stream())
    monkeypatch.setattr(cuda, "current_stream", lambda _device: found.now)
    monkeypatch.setattr(cuda, "stream", found.stream)
    recorded.recording_stream.cache_clear()
    monkeypatch.setattr(recorded, "recordable_operation", lambda _device: found.log.append("zeros"))
    monkeypatch.setattr(cuda, "device", found.current)
    monkeypatch.setattr(cuda, "CUDAGraph", lambda: Graph(found))
    monkeypatch.setattr(cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(cuda, "graph", found.graph)
    monkeypatch.setattr(cuda, "synchronize", lambda _device: found.log.append("synchronise"))
    monkeypatch.setattr(cuda, "get_sync_debug_mode", lambda: found.mode)
    monkeypatch.setattr(cuda, "set_sync_debug_mode", found.set_mode)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda *given, n=name: found.log.append((n, *given)), raising=False)
    yield found
    recorded.recording_stream.cache_clear()


class Waiting(nn.Linear):
    """A layer that waits for the device in every step."""

    device_of: ClassVar[Device]

    def forward(self, x: Tensor) -> Tensor:
        self.device_of.wait()
        return super().forward(x)


class Starting(Waiting):
    """One that waits a single time, as where a library is loaded."""

    started: ClassVar[bool]

    def forward(self, x: Tensor) -> Tensor:
        if not Starting.started:
            Starting.started = True
            self.device_of.wait()
        return nn.Linear.forward(self, x)


class Sulking(Waiting):
    """One that waits in a way that torch does not see before it records."""

    def forward(self, x: Tensor) -> Tensor:
        if self.device_of.recording:
            self.device_of.wait()
        return nn.Linear.forward(self, x)


class Counting(nn.Linear):
    """A layer that counts in Python."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Keeping(nn.Linear):
    """A layer that keeps what it gave, in no buffer."""

    last: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


X, Y = torch.linspace(-1, 1, 24).view(1, 4, 6), torch.arange(4).view(1, 4) % 3


def taken(device: Device, kind: type[nn.Linear], steps: int = 8, seed: int = 0) -> Recorded:
    """A network that has taken so many steps."""
    torch.manual_seed(seed)
    model = kind(6, 3)
    Waiting.device_of = device  # of the class: what a network holds itself is looked at for changes
    found = device.recorded = Recorded(Step(SingleModel(model), PROTOCOL))
    for i in range(steps):
        found(*batch(i))
    return found


def batch(i: int) -> tuple[Tensor, Tensor, float]:
    """Inputs, targets and learning rate of a step."""
    return (1 + i) * X, Y.roll(i, 1), 0.1 / (1 + i)


def plain(steps: int = 8) -> Tensor:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    step = Step(SingleModel(model), PROTOCOL)
    for i in range(steps):
        step(*batch(i))
    return model.weight


def weight(one: Recorded) -> Tensor:
    found = one.step.program.module.get_parameter("weight")
    assert isinstance(found, Tensor)
    return found


def test_a_step_is_recorded_once_on_the_device_and_stream_of_its_tensors(device: Device) -> None:
    """`torch.cuda.graph` by itself records the stream of the current device: on another, nothing."""
    one = taken(device, nn.Linear)
    assert one.is_recorded
    assert device.log == [("device", X.device), ("record", "pool", one._side)]
    assert one._side.waited_for == [device.default] * WARM_UP  # type: ignore[attr-defined]  # which it takes part in
    assert device.default.waited_for == [one._side] * WARM_UP
    assert device.replays == 8 - WARM_UP
    torch.testing.assert_close(weight(one), plain())


def test_a_network_is_not_shared_while_a_graph_writes_to_it(device: Device) -> None:
    """What would share its memory would see the next steps, or take the memory away from the graph."""
    one = taken(device, nn.Linear, steps=WARM_UP)
    parameter = weight(one)
    assert still_shared(shared(parameter))
    one(X, Y, 0.1)
    assert one.is_recorded
    copied = shared(parameter)
    assert not still_shared(copied)
    assert torch.equal(copied, parameter)
    del one, device.recorded
    gc.collect()
    assert still_shared(shared(parameter))


@pytest.mark.parametrize("kind", [Waiting, Sulking, Counting, Keeping])
def test_a_network_that_cannot_be_recorded_is_tried_once_in_a_process(
    device: Device, kind: type[nn.Linear], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="pai_bench")
    tries = []
    for _ in range(3):
        device.log.clear()
        one = taken(device, kind)
        assert not one.is_recorded
        assert device.mode == 0
        assert device.replays == 0
        torch.testing.assert_close(weight(one), plain())
        tries.append(sum(entry[0] == "record" for entry in device.log))
    assert tries == ([1, 0, 0] if kind is Sulking else [0, 0, 0])
    said = "the step cannot be recorded: operation not permitted when stream is capturing"
    assert caplog.messages == [said] * sum(tries)
    assert taken(device, nn.Linear).is_recorded  # others are


def test_a_network_may_wait_in_its_first_step(device: Device) -> None:
    Starting.started = False
    assert taken(device, Starting).is_recorded


def test_what_a_failed_recording_holds_is_given_back(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    undone: list[Any] = [("_cuda_endAllocateToPool", None, "pool"), ("_cuda_releasePool", None, "pool")]
    for version, expected in (("2.11.0+cu130", undone), ("2.14.1", [])):
        monkeypatch.setattr(torch, "__version__", version)
        recorded.unrecordable.clear()
        device.log.clear()
        one = taken(device, Sulking)
        if expected:  # and another recording that succeeds, so that the device draws random numbers again
            expected = [*expected, ("device", X.device), ("record", None, one._side), "zeros", "reset"]
        assert device.log[2:] == ["synchronise", "reset", *expected]
        assert device.now is device.default


def test_all_recordings_of_a_device_share_a_stream(device: Device) -> None:
    assert taken(device, nn.Linear)._side is taken(device, nn.Linear, seed=1)._side


def test_short_memory_says_nothing_of_the_network(device: Device) -> None:
    device.fails = "CUDA out of memory"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorded, "is_out_of_memory", lambda error: "out of memory" in str(error))
        assert not taken(device, nn.Linear).is_recorded
    device.fails = None
    assert taken(device, nn.Linear).is_recorded


def test_other_warnings_are_passed_on(device: Device) -> None:
    def work() -> Tensor:
        warnings.warn("mine", UserWarning, stacklevel=1)
        return X

    with pytest.warns(UserWarning, match="mine") as seen:
        assert detect_synchronization(work) == (X, False)
    assert len(seen) == 1

    def waiting() -> Tensor:
        device.wait()
        return work()

    with pytest.warns(UserWarning, match="mine"):
        assert detect_synchronization(waiting) == (X, True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler loads what torch itself warns of
@pytest.mark.parametrize("compile", [False, True])
def test_steps_of_a_cuda_device_are_recorded_compiled_or_not(compile: bool) -> None:
    kind = type(step_for(SingleModel(nn.Linear(6, 3)), PROTOCOL, torch.device("cuda", 1), compile=compile))
    assert kind is Recorded
    assert type(step_for(SingleModel(nn.Linear(6, 3)), PROTOCOL, torch.device("cpu"), compile=compile)) is Step
    program = SingleModel(nn.Linear(6, 3))
    by_default = step_for(program, PROTOCOL, torch.device("cpu"))
    assert isinstance(by_default, Step)
    assert by_default._losses == program.losses


def test_causes_of_an_error_are_looked_at_to_the_first_one() -> None:
    first, second, third = ValueError("first"), KeyError("second"), RuntimeError("third")
    second.__context__, third.__cause__ = first, second
    assert [*causes_of(third)] == [third, second, first]
    second.__context__ = KeyboardInterrupt()  # which is no error
    assert [*causes_of(third)] == [third, second]
