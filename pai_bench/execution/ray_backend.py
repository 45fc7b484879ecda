"""The backend of a Ray cluster: cells are tasks, and what comes of them travels to this process, which stores it."""

import dataclasses
import functools
import itertools
import logging
import os
import pickle
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

from pai_bench.execution import ray_cluster
from pai_bench.execution.autotune import choose
from pai_bench.execution.backend import Callbacks, Cell, MakeBackend
from pai_bench.execution.deaths import Deaths
from pai_bench.execution.execution_plan import ExecutionPlan
from pai_bench.execution.ray_cluster import Node
from pai_bench.execution.ray_task import Setup, packed, run_cell
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.sweep import Execution
from pai_bench.experiment.takeover import ClaimedTrials, TakenOverError
from pai_bench.experiment.trial import Trial
from pai_bench.support.errors import UserError
from pai_bench.support.logs import level_to_send
from pai_bench.support.processes import interrupts_deferred
from pai_bench.support.registry import backend

if TYPE_CHECKING:
    from ray import ObjectRef

logger = logging.getLogger(__name__)

Message = tuple[int, str, Any]
"""The number of a task, the type of its message, and the content."""

AHEAD = 2
"""Cells that wait in the cluster's own queue: no processor waits for this process, and more nodes are asked for."""

POLL = 0.5
"""Seconds after which this process looks for dead tasks when no message comes."""

REFRESH = 5.0
"""Seconds after which this process asks again which nodes there are."""

PATIENCE = 10.0
"""Seconds that tasks have to end by themselves, and to send before a checkpoint of what they train."""

LOSSES = 10
"""Nodes that may be lost while they run the same cell; further ones count as if its trials had ended their process."""


class Task:
    """A cell that was given to the cluster."""

    def __init__(self, cell: Sequence[Trial], reference: "ObjectRef[None]", claimed: ClaimedTrials) -> None:
        self.cell, self.reference, self.claimed, self.finished = cell, reference, claimed, set[str]()

    @property
    def unfinished(self) -> list[Trial]:
        """The trials of which no record has come."""
        return [trial for trial in self.cell if trial.identity not in self.finished]


class RayCluster:
    """A `Backend` whose nodes share no files with this process, and may come and go.

    What ran on a lost node runs again, from its latest checkpoint. A trial that ends its process has failed, in the
    end, as with worker processes.
    """

    def __init__(self, runner: Runner, plan: ExecutionPlan, address: str | None, nodes: Sequence[Node]) -> None:
        self.runner, self.plan, self.address, self._nodes = runner, plan, address, nodes
        self._tasks: dict[int, Task] = {}
        self._deaths, self._losses = Deaths(runner), Counter[str]()
        self._refreshed, self._numbers = 0.0, itertools.count()
        self._inbox = deque[Message]()
        """Messages that have come, and are not yet handled."""

    @property
    def description(self) -> str:
        """Where the cluster is, and how large."""
        return ray_cluster.description(self.address, self._nodes)

    @property
    def _gpu(self) -> bool:
        return self.runner.device.type == "cuda"

    def __enter__(self) -> Self:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if (isolated := self.runner.catalog.isolated_process) is not None:
            isolated.close()
        with ExitStack() as stack:
            stack.enter_context(ray_cluster.connected(self.address))
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
            # a queue that has lost its messages is no worse than a lost node: what is missing runs again
            restarts = {"max_restarts": -1, "max_task_retries": -1}
            self._queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here, **restarts})
            stack.callback(self._queue.shutdown, force=True)
            self._setup = ray.put(self._make_setup())
            needs: dict[str, Any] = {"num_cpus": self.plan.threads, "num_gpus": int(self._gpu), "max_retries": 0}
            # Ray gives each task on a GPU a process of its own: the GPU of a process cannot change
            self._run_cell = ray.remote(**needs)(run_cell)
            stack.callback(self._cancel)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def _make_setup(self) -> Setup:
        import ray

        sweep, catalog = self.runner.catalog.sweep, self.runner.catalog
        # without the sweep's axes, and on the GPU that Ray gives to the task
        values = {f.name: getattr(sweep, f.name) for f in dataclasses.fields(Execution)}
        execution = Execution(**values | {"device": self.runner.device.type})
        data = {name: ray.put(packed(data)) for name, data in catalog.data.items()}
        return Setup(execution, self.plan, self.runner.command, level_to_send(), data, self._queue)

    def run(self, cells: Sequence[Cell], callbacks: Callbacks) -> None:
        """As of every `Backend`."""
        waiting, self._callbacks = deque(cells), callbacks
        while waiting or self._tasks:
            while waiting and len(self._tasks) < self._most_tasks():
                if cell := callbacks.still_missing(waiting.popleft()):
                    number = next(self._numbers)
                    self._tasks[number] = self._submit(number, cell)
            ended = self._receive()
            self._handle_inbox()
            for number in ended:
                waiting.extendleft(self._end(number, callbacks))

    def _most_tasks(self) -> int:
        """How many tasks may be given to the cluster as it is now."""
        if time.monotonic() > self._refreshed + REFRESH:
            self._nodes, self._refreshed = ray_cluster.present_nodes(), time.monotonic()
        most = ray_cluster.slots(self._nodes, self.plan.threads, gpu=self._gpu) + AHEAD
        workers = self.runner.catalog.sweep.workers
        return most if workers == "auto" else min(most, int(workers))

    def _submit(self, number: int, cell: Sequence[Trial]) -> Task:
        """Give a cell to the cluster, with its checkpoint if there is one."""
        from ray import cloudpickle

        try:
            content = cloudpickle.dumps(cell)  # type: ignore[no-untyped-call]  # also objects of a script or a notebook
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(f"this sweep cannot be given to a Ray cluster ({error}); use --workers 1") from error
        checkpoints, names = self.runner.checkpoints, [trial.identity for trial in cell]
        checkpoint = checkpoints.read(names) if checkpoints else None
        kept = self.runner.networks
        found = {name: kept.read(name) for trial in cell for name in trial.needs} if kept is not None else {}
        networks = {name: network for name, network in found.items() if network is not None}
        claimed = ClaimedTrials(checkpoints, names)
        return Task(cell, self._run_cell.remote([self._setup], number, content, checkpoint, networks), claimed)

    def _receive(self) -> list[int]:
        """The tasks that have ended, after putting the messages that have come, all of theirs, into the inbox."""
        import ray
        from ray.util.queue import Empty

        with interrupts_deferred():  # what is taken out of the queue is not lost
            messages: list[bytes] = []
            references = [task.reference for task in self._tasks.values()]
            done = set(ray.wait(references, num_returns=len(references), timeout=0)[0]) if references else ()
            if not done:
                with suppress(Empty):
                    messages.append(self._queue.get(timeout=POLL))
            messages += self._queue.get_nowait_batch(self._queue.qsize())
            self._inbox += map(pickle.loads, messages)
        return [number for number, task in self._tasks.items() if task.reference in done]

    def _handle_inbox(self) -> None:
        """Act on the messages that have come, each to its end."""
        while self._inbox:
            with interrupts_deferred(first_only=True):
                self._handle(self._inbox.popleft(), self._callbacks)

    def _handle(self, message: Message, callbacks: Callbacks) -> None:
        """Act on a message of a task; end a task of which another process has taken over a trial."""
        number, message_type, content = message
        if (task := self._tasks.get(number)) is None:
            return  # a task of which there is nothing to do any more may run on a node that was only out of reach
        try:
            if not self._store(task, message_type, content):
                self._progress(number, message_type, content, callbacks)
        except TakenOverError as error:
            logger.warning("%s", error)
            del self._tasks[number]
            cancel(task, force=True)

    def _progress(self, number: int, message_type: str, content: Any, callbacks: Callbacks) -> None:
        """Act on a message about the progress of the trials of a task."""
        task = self._tasks[number]
        if message_type == "epoch":
            index, epoch = content
            task.claimed.check([task.cell[index].identity])
            callbacks.on_epoch(task.cell[index], epoch)
        elif message_type == "taken over":
            del self._tasks[number]
        elif message_type == "records":
            indices, records, seconds = content
            trials = [task.cell[index] for index in indices]
            task.finished |= {trial.identity for trial in trials}
            self._deaths.on_finish(trials[0])
            if not task.unfinished:
                del self._tasks[number]
            callbacks.on_records(trials, records, seconds)

    def _store(self, task: Task, message_type: str, content: Any) -> bool:
        """Act on a message that is about files or the log, not about the progress of trials; whether it was one."""
        checkpoints = self.runner.checkpoints
        if message_type == "log":
            name, level, text = content
            logging.getLogger(name).log(level, "%s", text)
        elif message_type == "checkpoint" and checkpoints is not None:
            task.claimed.check(content[0])
            checkpoints.write(*content)
        elif message_type == "remove" and checkpoints is not None:
            checkpoints.remove(content)
        elif message_type == "set aside" and checkpoints is not None:
            checkpoints.set_aside(*content)
        elif message_type == "network" and self.runner.networks is not None:
            self.runner.networks.write(*content)
        else:
            return False
        return True

    def _end(self, number: int, callbacks: Callbacks) -> list[Cell]:
        """The cells that a task leaves to be run again, if it has ended before its trials were finished."""
        if (task := self._tasks.pop(number, None)) is None:
            return []
        how, by_trial = ray_cluster.how_ended(task.reference)
        cell, names = task.unfinished, ", ".join(trial.identity for trial in task.unfinished)
        if not by_trial:
            self._losses.update([names])
            if self._losses[names] <= LOSSES:
                logger.warning("%s while it ran %s; once more", how, names)
                return [cell]
        if again := self._deaths.cells_to_run(cell, how):
            return again
        failure = self.runner.failure(cell[0], RuntimeError(f"the worker process died ({how})"))
        callbacks.on_records(cell, [failure], 0.0)
        return []

    def _cancel(self) -> None:
        """End all tasks: those that train send a checkpoint before."""
        for task in self._tasks.values():
            cancel(task)
        deadline = time.monotonic() + PATIENCE
        while self._tasks and time.monotonic() < deadline:
            ended = self._receive()
            self._handle_inbox()
            for number in ended:
                self._tasks.pop(number, None)
        for task in self._tasks.values():
            cancel(task, force=True)
        self._tasks.clear()


def cancel(task: Task, *, force: bool = False) -> None:
    """End a task as by an interrupt, or with `force` its process."""
    import ray

    ray.cancel(task.reference, force=force, recursive=False)


def make(address: str | None, runner: Runner, missing: Sequence[Trial]) -> RayCluster:
    """The backend of the cluster at an `address`, with the plan for it."""
    ray_cluster.check_installed()
    address = address or os.environ.get("RAY_ADDRESS")
    nodes, gpu = ray_cluster.find_nodes(address), runner.device.type == "cuda"
    # how many trials are trained together, by how many threads, is measured for one machine
    plan = choose(runner, missing, workers=None if address is None else "auto")
    threads = ray_cluster.threads_of(nodes, plan.threads, gpu=gpu)
    tasks = ray_cluster.slots(nodes, threads, gpu=gpu)
    if not tasks:
        device = "a GPU" if gpu else "a processor"
        logger.warning("no node of the Ray cluster has %s for trials: the sweep waits until one comes", device)
    workers = runner.catalog.sweep.workers
    number = max(1, tasks if workers == "auto" else min(tasks, int(workers)))
    seconds = {kind: seconds * plan.workers / number for kind, seconds in plan.seconds_of.items()}
    plan = dataclasses.replace(plan, workers=number, threads=threads, seconds_of=seconds)
    return RayCluster(runner, plan, address, nodes)


@backend("ray", source="pai_bench")
def ray_here(runner: Runner, missing: Sequence[Trial]) -> RayCluster:
    """A Ray cluster: the one that RAY_ADDRESS names, or one that is started on this machine."""
    return make(None, runner, missing)


@backend("ray:", source="pai_bench")
def ray_at(address: str) -> MakeBackend:
    """The Ray cluster at an address, HOST:PORT."""
    return functools.partial(make, address)
