"""A Ray cluster: its nodes, how much runs there at once, and the connection to it."""

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from pai_bench.support.errors import UserError

if TYPE_CHECKING:
    from ray import ObjectRef

Node = Mapping[str, float]
"""How much a node has of ``CPU`` and ``GPU``."""

PATIENCE = 15.0
"""Seconds in which a cluster must answer."""

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or else there is a warning that this will be the default
}
"""What keeps Ray from sending statistics, and from a warning that does not concern the user."""

ASK = """
import json, ray, sys
ray.init(sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
print(json.dumps([node["Resources"] for node in ray.nodes() if node["Alive"]]))
"""
"""What prints the nodes of a cluster."""


def check_installed() -> None:
    """Raise UserError where Ray cannot be imported; it is made quiet first."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise UserError(f"Ray is not there ({error}): pip install 'pai-bench[ray]'") from error


def find_nodes(address: str | None) -> list[Node]:
    """The nodes of the cluster at an `address`, None for that of this process, or for the one that it will start."""
    import ray

    if ray.is_initialized():
        return present_nodes()
    return [{"CPU": torch.get_num_threads(), "GPU": torch.cuda.device_count()}] if address is None else ask(address)


def present_nodes() -> list[Node]:
    """The nodes of the cluster to which this process is connected; they may come and go."""
    import ray

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def ask(address: str) -> list[Node]:
    """The nodes of the cluster at an `address`, asked by another process: Ray itself waits for minutes, and logs."""
    if "://" in address:
        raise UserError(f"Ray address {address}: start pai-bench on a node of the cluster, and give HOST:PORT or auto")
    command = [sys.executable, "-c", ASK, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        said, answer = done.stderr, done.stdout if done.returncode == 0 else ""
    except subprocess.TimeoutExpired as error:
        said, answer = (error.stderr or b"").decode(errors="replace"), ""
    if answer:
        nodes: list[Node] = json.loads(answer.splitlines()[-1])
        return nodes
    if "InvalidAuthToken" in said:
        raise UserError(f"the Ray cluster at {address} asks for a token: set RAY_AUTH_MODE=token, as its nodes do")
    lines = [line for line in said.splitlines() if line and not line.startswith(("[", " "))]
    why = lines[-1] if lines else f"no answer within {PATIENCE:.0f} s"
    raise UserError(f"no Ray cluster at {address} can be joined ({why}); `ray start` starts or extends one")


def threads_of(nodes: Sequence[Node], most: int, *, gpu: bool) -> int:
    """Threads for each task: as many as wanted at `most`, but not more than a node has, for each of its GPUs."""
    useful = [node for node in nodes if node.get("CPU", 0) >= 1 and (node.get("GPU", 0) >= 1 or not gpu)]
    share = max((node["CPU"] / (node["GPU"] if gpu else 1) for node in useful), default=most)
    return max(1, min(most, int(share)))


def slots(nodes: Sequence[Node], threads: int, *, gpu: bool) -> int:
    """How many tasks run at once on some nodes."""
    tasks = [(node.get("CPU", 0) // threads, node.get("GPU", 0) if gpu else sys.maxsize) for node in nodes]
    return sum(int(min(task)) for task in tasks)


def description(address: str | None, nodes: Sequence[Node]) -> str:
    """A cluster in a few words."""
    counts = {what: sum(int(node.get(what, 0)) for node in nodes) for what in ("CPU", "GPU")}
    sizes = ", ".join(f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items() if count or what == "CPU")
    where = f"at {address}" if address else "on this machine"
    return f"Ray {where}, {sizes} on {len(nodes)} node{'s' * (len(nodes) != 1)}"


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A block in which this process is connected to the cluster at an `address`; None starts one, which ends with it.

    A process that is connected already stays so.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    with messages_hidden():
        try:
            connect(address)
            yield
        finally:
            ray.shutdown()


def connect(address: str | None) -> None:
    """Connect this process to a cluster, or start one; SIGTERM does what it did before."""
    import ray

    options: dict[str, Any] = {"num_cpus": torch.get_num_threads(), "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **({} if address else options)
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"Ray does not start: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def messages_hidden() -> Iterator[None]:
    """A block in which Ray prints no reports of dead processes and nodes: the backend says in one line what it does."""
    # there is no option for it: `log_to_driver` is about what workers print
    worker = importlib.import_module("ray._private.worker")
    before = getattr(worker, "print_to_stdstream", None)
    worker.print_to_stdstream = lambda *_arguments, **_options: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        worker.print_to_stdstream = before  # type: ignore[attr-defined]


def how_ended(reference: "ObjectRef[None]") -> tuple[str, bool]:
    """How a task has ended too early, and whether its trials may be the cause; UserError if all tasks end so."""
    import ray
    from ray import exceptions

    try:
        ray.get(reference)
    except exceptions.OutOfMemoryError:
        return "its node had no more memory", True
    except exceptions.WorkerCrashedError:
        return "its process ended", True
    except (exceptions.NodeDiedError, exceptions.ObjectLostError, exceptions.RayActorError):
        return "a node was lost", False
    except exceptions.TaskCancelledError:
        return "a task was cancelled", False
    except exceptions.RayTaskError as error:
        why = [line for line in str(error.cause).splitlines() if line.strip()] or [type(error.cause).__name__]
        # of several lines, the last says what is missing there
        raise UserError(f"a node of the Ray cluster cannot run this sweep ({why[-1].strip()})") from error
    except exceptions.RayError as error:
        raise UserError(f"Ray cannot run this sweep: {' '.join(str(error).split())}") from error
    return "a task lost its messages", False
