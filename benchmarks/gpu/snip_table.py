"""SNIP's table 1 with 20 seeds at once: LeNet-300-100 by the full protocol, LeNet-5-Caffe by that of the code."""

import dataclasses
import time
from collections.abc import Callable, Iterator

import pai_bench as pb
from benchmarks.gpu import engine, sweeps
from benchmarks.gpu.stage import Context, Finding, OutOfTimeError, Piece
from pai_bench.experiment import recipe

RECIPE = "snip-table-1"
GRIDS = (("lenet-5-caffe", "snip-mnist-code"), ("lenet-300-100", "snip-mnist"))
"""Network and protocol of the recipe's grids that are run, the shorter one first."""

SEEDS = (20, 10, 5, 2, 1)
"""How many seeds are run at once: the most for which there is time."""


def pieces(context: Context) -> Iterator[Piece]:
    """One piece for each grid."""
    for network, protocol in GRIDS[1:] if context.rehearse else GRIDS:
        work = table(context, network, protocol)
        yield Piece("SNIP, table 1", f"{network}, {protocol}", work, needs=2 if context.rehearse else 20)


def sweep_of(context: Context, network: str, protocol: str, seeds: int) -> pb.Sweep:
    """A grid of the recipe."""
    (grid,) = [
        grid for grid in recipe.load(RECIPE).grids if grid["models"] == (network,) and grid.get("protocol") == protocol
    ]
    keys = {key: value for key, value in grid.items() if key != "out"}
    keys |= {"seeds": seeds, "device": str(context.device), "workers": 1}
    keys["data"] = [engine.data_set(name) for name in keys["data"] if not context.rehearse]
    if context.rehearse:
        keys |= {"data": [engine.random_images((1, 8, 8), 500, name="tiny-mnist")], "budget": 0.0002}
    return pb.Sweep(**keys)


def table(context: Context, network: str, protocol: str) -> Callable[[], Finding]:
    """As many seeds at once as there is time for; a later run does the others."""

    def run() -> Finding:
        begin, wanted = time.monotonic(), (2, 1) if context.rehearse else SEEDS
        whole = sweep_of(context, network, protocol, wanted[0])
        missing = sweeps.forecast(context, whole)
        per_seed = len(engine.trials(whole)) // wanted[0]
        done = wanted[0] - -(-missing.trials // per_seed)
        each = sweeps.MARGIN * (missing.seconds - sweeps.FIXED) / max(1, wanted[0] - done)
        options = [number - done for number in wanted if number > done] or [0]
        more = sweeps.fitting(options, each, context.time_left() - sweeps.FIXED)
        together = sweeps.at_once(missing.together, max(1, more * per_seed))
        print(f"    {more} more seeds, {together} trials together, about {each * more:.0f} s", flush=True)
        sweep = dataclasses.replace(whole, seeds=done + more, lanes=together)
        found = sweeps.run(context, sweep)
        if done + more < wanted[0] and found.problem is None:
            raise OutOfTimeError  # what was done stays
        values = {**found.values, "seeds": done + more, "trained together": together}
        return dataclasses.replace(found, values={**values, "seconds with the forecast": time.monotonic() - begin})

    return run
