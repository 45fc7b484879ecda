"""Selection and connectivity of the device, which have to be exact."""

import copy
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

import pai_bench as pb
from benchmarks.gpu import engine, scoring
from benchmarks.gpu.checks.scores import example
from benchmarks.gpu.stage import Context, Finding, Piece

WRONG = "places that differ"


def pieces(context: Context) -> Iterator[Piece]:
    """All counts of few scores, many counts of many, three ways with ties, three shares of a network's paths."""
    many = 10_000 if context.rehearse else 1_000_000
    few = 200 if context.rehearse else 500
    for values in (3, 0):  # many ties, or none
        kind = f"{values} different values" if values else "all different"
        counts = list(range(few + 1))
        yield Piece("selection", f"{few:,} scores, {kind}, every count", exact(context, few, values, counts), needs=4)
    for values in (2, 64, 0):
        kind = f"{values} different values" if values else "all different"
        work = exact(context, many, values, None)
        yield Piece("selection", f"{many:,} scores, {kind}, counts around every tie", work, needs=5)
    both: tuple[Literal["keep", "remove"], ...] = ("keep", "remove")
    for ties in both:
        yield Piece("selection", f"{many:,} scores, ties={ties}", ties_alike(context, many, ties), needs=3)
    for network in ["mlp", "cnn", "residual"] if context.rehearse else scoring.kinds():

        def paths(network: str = network) -> Finding:
            return same_paths(context, network)

        yield Piece("connectivity", network, paths, needs=2)


def drawn(size: int, values: int, alive: bool) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Scores of three layers, some of one value, infinite or negative, and perhaps which can be selected."""
    generator = torch.Generator().manual_seed(size + values)
    flat = torch.randn(size, generator=generator)
    if values:
        flat = (torch.randint(0, values, (size,), generator=generator) - values // 2).float()
        flat[flat == 0] = torch.where(torch.rand(int((flat == 0).sum()), generator=generator) < 0.5, 0.0, -0.0)
    shape = {"a": size // 2, "b": size // 4, "c": size - size // 2 - size // 4}
    parts = dict(zip(shape, flat.split(list(shape.values())), strict=True))
    live = {name: torch.rand(part.shape, generator=generator) < 0.7 for name, part in parts.items()}
    return parts, live if alive else None


def exact(context: Context, size: int, values: int, counts: list[int] | None) -> Callable[[], Finding]:
    """Selection on the device beside a sort on the CPU that keeps equal scores in their order."""

    def run() -> Finding:
        wrong = tried = 0
        for alive in (False, True):
            scores, live = drawn(size, values, alive)
            flat = torch.cat(list(scores.values()))
            if live is not None:
                flat = flat.masked_fill(~torch.cat(list(live.values())), -torch.inf)
            order = flat.argsort(descending=True, stable=True)
            there = {name: score.to(context.device) for name, score in scores.items()}
            alive_there = None if live is None else {name: mask.to(context.device) for name, mask in live.items()}
            most = size if live is None else sum(int(mask.sum()) for mask in live.values())
            for count in [c for c in counts or around_ties(flat[order], most) if c <= most]:
                context.need(1)
                wanted = torch.zeros(size, dtype=torch.bool)
                wanted[order[:count]] = True
                found = torch.cat(list(scoring.select(there, count, alive_there).values())).cpu()
                wrong, tried = wrong + int((found ^ wanted).sum()), tried + 1
        return Finding({"counts": tried, WRONG: wrong}, {WRONG: 0})

    return run


def around_ties(ranked: Tensor, most: int) -> list[int]:
    """Counts at, before and behind the places where a ranking changes its value; some of them if there are many."""
    changes = (ranked[1:] != ranked[:-1]).nonzero().flatten() + 1
    chosen = changes[torch.linspace(0, len(changes) - 1, min(len(changes), 20)).long()].tolist()
    near = {place + shift for place in chosen for shift in (-1, 0, 1)} | {0, 1, most // 3, most - 1, most}
    return sorted(place for place in near if 0 <= place <= most)


def ties_alike(context: Context, size: int, ties: Literal["keep", "remove"]) -> Callable[[], Finding]:
    """The options that keep or remove all equal scores, beside a comparison with the threshold."""

    def run() -> Finding:
        wrong = tried = 0
        scores, _ = drawn(size, 64, False)
        flat = torch.cat(list(scores.values()))
        ranked = flat.sort(descending=True).values
        there = {name: score.to(context.device) for name, score in scores.items()}
        for count in around_ties(ranked, size)[1:-1]:
            context.need(1)
            wanted = flat >= ranked[count - 1] if ties == "keep" else flat > ranked[count]
            found = torch.cat(list(scoring.cut(there, count, ties).values())).cpu()
            wrong, tried = wrong + int((found ^ wanted).sum()), tried + 1
        return Finding({"counts": tried, WRONG: wrong}, {WRONG: 0})

    return run


def same_paths(context: Context, network: str) -> Finding:
    """What three masks leave of the paths of a network: equal in every respect."""
    wrong = 0
    for density in (0.5, 0.2, 0.05):
        model, batch = example(network, torch.float64)
        mask = pb.Mask(engine.random_mask(model, density))
        twin = copy.deepcopy(model).to(context.device)
        here = pb.connectivity(model, mask, batch.inputs[:1])
        there = pb.connectivity(twin, mask.to(context.device), batch.inputs[:1].to(context.device))
        wrong += sum(
            int((here.effective_mask[name] ^ there.effective_mask[name].cpu()).sum()) for name in here.effective_mask
        )
        facts = [
            (one.connected, one.layers, one.first_cut, one.severed_shortcuts, one.log10_paths) for one in (here, there)
        ]
        wrong += facts[0] != facts[1]
    return Finding({WRONG: wrong}, {WRONG: 0})
