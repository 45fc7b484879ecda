"""ResNet-20 on the whole of CIFAR-10, six criteria, three seeds, as long as the minutes left allow."""

import dataclasses
from collections.abc import Callable, Iterator

import pai_bench as pb
from benchmarks.gpu import engine, sweeps
from benchmarks.gpu.stage import Context, Finding, OutOfTimeError, Piece
from pai_bench.support.registry import PROTOCOLS

PROTOCOL, SEEDS = "openlth-resnet20", 3
EPOCHS = PROTOCOLS[PROTOCOL].epochs

SHARE = 0.85
"""The part of the time left that is planned for."""

BUDGET, TOGETHER, SECONDS = "budget", "together", "seconds of a seed"
"""What a later run has to know, so that it goes on with the same trials."""


def pieces(context: Context) -> Iterator[Piece]:
    """Seed by seed: what is there after each can be reported."""
    for seed in range(2 if context.rehearse else SEEDS):
        yield Piece(
            "resnet-20 on CIFAR-10", f"seed {seed}", one_seed(context, seed), needs=2 if context.rehearse else 20
        )


def sweep_of(context: Context, seeds: int) -> pb.Sweep:
    """The sweep at full length; tf32 is what published results on a GPU were computed in, mostly."""
    criteria, sparsities = ["random", "erk", "magnitude", "snip", "grasp", "synflow"], (0.9, 0.98)
    return pb.Sweep(
        criteria=["random", "snip"] if context.rehearse else criteria,
        sparsities=sparsities[:1] if context.rehearse else sparsities,
        models=["resnet-20"],
        data=[data_of(context)],
        seeds=seeds,
        protocol=PROTOCOL,
        batch_size=50 if context.rehearse else None,
        precision="tf32" if context.cuda else "fp32",
        device=str(context.device),
        workers=1,
    )


def data_of(context: Context) -> pb.DataSet:
    """All of CIFAR-10, or a tiny set of its kind."""
    if context.rehearse:
        return engine.random_images((3, 8, 8), 200, name="tiny-cifar10")
    return engine.data_set("cifar10")


def one_seed(context: Context, seed: int) -> Callable[[], Finding]:
    """The trials of one more seed, at the budget that was chosen when the first one began."""

    def run() -> Finding:
        state = context.ledger.state
        if BUDGET not in state:
            choose_budget(context)
        context.need(sweeps.MARGIN * state[SECONDS])
        sweep = dataclasses.replace(sweep_of(context, seed + 1), budget=state[BUDGET], lanes=state[TOGETHER])
        found = sweeps.run(context, sweep)
        state[SECONDS] = max(state[SECONDS], float(found.values["seconds"] or 0))
        epochs = {"epochs": round(EPOCHS * state[BUDGET]), "share of the protocol": state[BUDGET]}
        return dataclasses.replace(found, values={**found.values, **epochs, "trained together": state[TOGETHER]})

    return run


def choose_budget(context: Context) -> None:
    """The most epochs for which all seeds fit into the time left, one at least; kept for later runs."""
    whole = sweeps.forecast(context, sweep_of(context, 1))
    seeds = 2 if context.rehearse else SEEDS
    left = SHARE * context.time_left() / seeds - (whole.seconds - whole.training)
    epochs = min(EPOCHS, int(EPOCHS * left / whole.training))
    if context.rehearse:
        epochs = 1
    if epochs < 1:
        raise OutOfTimeError
    share = epochs / EPOCHS
    seconds = whole.seconds - (1 - share) * whole.training
    together = sweeps.at_once(whole.together, whole.trials)
    context.ledger.state |= {BUDGET: share, TOGETHER: together, SECONDS: seconds}
    context.ledger.write()
    print(f"    {epochs} of {EPOCHS} epochs, {together} trials together, about {seconds:.0f} s for a seed", flush=True)
