"""The fastest way to train several trials of one kind: how many at once, how, and in which memory layout."""

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.support.memory import is_out_of_memory
from pai_bench.training.trainer import Engine, Together

logger = logging.getLogger(__name__)

GAIN = 1.05
"""How much faster another way must be to be chosen."""

MOST_NETWORKS = 512

SMALL = 0.02
"""Seconds of a small step."""

Measure = Callable[[int, Engine], tuple[float, int]]
"""Seconds for a step of one of so many networks that an engine trains together, and the bytes that all of them take."""

Way = tuple[int, Engine, float]
"""How many networks are trained together, how, and the seconds for a step of one of them."""


@dataclass(frozen=True)
class Search:
    """The ways to train `count` trials of the kind of `trial` that fit into `memory` bytes."""

    runner: Runner
    trial: Trial
    count: int
    memory: int
    measure: Measure

    @property
    def default(self) -> Engine:
        """The engine that is measured first."""
        return Engine(compile=self.runner.catalog.sweep.compile)

    def best(self, lanes: int | str) -> Way:
        """The fastest way to train so many at once, or as many as are fastest for ``auto``."""
        try:
            if lanes != "auto":
                return self.of_number(min(int(lanes), self.count))
            seconds, size = self.measure(1, self.default)
            engine, seconds = self.best_layout(seconds)
        except Exception as error:  # the trial itself will fail, and say why
            logger.debug("a step of %s cannot be measured: %s", self.trial.model, error)
            return 1, self.default, 0.0
        best = 1, engine, seconds
        # on a processor, more at a time are for networks whose steps are too small to keep it busy
        if self.runner.device.type == "cpu" and seconds >= SMALL:
            return best
        for together in self.ways:
            way = self.doubled(dataclasses.replace(engine, together=together), seconds, size)
            if way[2] * GAIN < best[2]:
                best = way
        return best

    @property
    def ways(self) -> list[Together]:
        """The ways of training together that are worth measuring."""
        sweep = self.runner.catalog.sweep
        if sweep.together != "auto":
            return [sweep.together]
        # the kernels of branches run side by side on a CUDA device only, and torch.compile knows no streams
        return ["stacked"] if self.runner.device.type == "cpu" or sweep.compile else ["stacked", "branches"]

    @property
    def has_layouts(self) -> bool:
        """Whether there is a layout to choose."""
        if self.runner.device.type == "cpu":
            return False
        return any(isinstance(module, nn.Conv2d) for module in self.runner.inputs.model(self.trial).modules())

    def best_layout(self, seconds: float) -> tuple[Engine, float]:
        """The default engine, whose step takes so many `seconds`, or one with contiguous weights if that is faster."""
        # channels-last is faster on processors, and on CUDA devices in low precision, not always in single precision
        if not self.has_layouts:
            return self.default, seconds
        contiguous = dataclasses.replace(self.default, channels_last=False)
        contiguous_seconds = self.measure(1, contiguous)[0]
        return (contiguous, contiguous_seconds) if contiguous_seconds * GAIN < seconds else (self.default, seconds)

    def doubled(self, engine: Engine, seconds: float, size: int) -> Way:
        """The fastest number of networks: doubled from one, which takes `seconds` and `size`, while that is faster."""
        networks, most = 1, min(self.count, MOST_NETWORKS)
        while (
            2 * networks <= most
            and 2.5 * size < self.memory
            and self.runner.obstacle(self.trial, engine.together) is None
        ):
            try:
                doubled_seconds, size = self.measure(2 * networks, engine)
            except Exception as error:  # the number that has worked will do
                logger.debug("%s is not trained %d at a time: %s", self.trial.model, 2 * networks, error)
                break
            if doubled_seconds * GAIN > seconds:
                break
            networks, seconds = 2 * networks, doubled_seconds
        return networks, engine, seconds

    def of_number(self, networks: int) -> Way:
        """The fastest way for so many at once; one by one where they cannot be trained together."""
        reasons = {together: self.runner.obstacle(self.trial, together) for together in self.ways if networks > 1}
        possible = [together for together, why in reasons.items() if why is None]
        if not possible:
            for why in reasons.values():
                logger.warning("%s is trained one at a time: %s", self.trial.model, why)
            return 1, *self.best_layout(self.measure(1, self.default)[0])
        layout = self.best_layout(self.measure(1, self.default)[0])[0] if self.has_layouts else self.default
        engines = [dataclasses.replace(layout, together=together) for together in possible]
        seconds = {engine: self._seconds(networks, engine) for engine in engines}
        engine = min(engines, key=seconds.__getitem__)
        if math.isinf(seconds[engine]):  # they will be split
            return networks, engine, self.measure(1, engine)[0]
        return networks, engine, seconds[engine]

    def _seconds(self, networks: int, engine: Engine) -> float:
        """Seconds for a step, infinitely many if memory is too short for so many networks."""
        try:
            return self.measure(networks, engine)[0]
        except Exception as error:
            if is_out_of_memory(error):
                return math.inf
            raise
