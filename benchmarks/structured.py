"""Every classifier of torchvision and every network of pai-bench, without 30 % of what structured pruning can remove.

    python -m benchmarks.structured -o reports/structured/networks.md

Of each network, with random weights, the groups are found and 30 % of them removed at random. The smaller network must
compute what the masked one does: in float64, above 100 million parameters in float32. Each network has a process of its
own, one at a time, so that its peak of memory is known. Rows are kept in the file ``--rows``; one that is there is not
measured again.
"""

import argparse
import json
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

import pai_bench as pb
from pai_bench.graph.flops import flops
from pai_bench.graph.tracing import tensors
from pai_bench.groups import GroupMask, Groups, find_groups, shrink
from pai_bench.groups.removable import SINGLE, TOLERANCE, fill, restore_last, scale_statistics
from pai_bench.networks.private_copy import copied
from pai_bench.support.registry import MODELS

REMOVED = 0.3
"""The share of the groups that are removed."""

LARGE = 100_000_000
"""Networks with more parameters are run in float32."""

SIDES = {"inception_v3": 299, "swin_v2_t": 256, "swin_v2_s": 256, "swin_v2_b": 256}
"""Sides of the images of torchvision's classifiers, where they are not 224."""


QUOTED = re.compile(r" (in|of) '[^']*'|(?<=')[^']+\.(?=[^.']+')")
"""What tells a reason from the same one of another layer."""


@dataclass(frozen=True)
class Row:
    """What was found of one network."""

    name: str
    side: int
    """Of the square image."""
    parameters: int
    dtype: str
    units: int
    """Rows of weights that make features."""
    free: int
    """Those of them that can be removed."""
    parameters_left: int
    flops: int
    flops_left: int
    difference: float
    """The largest one between outputs of the masked and the smaller network, as a share of the largest output."""
    limit: float
    find_seconds: float
    seconds: float
    """From the network to the last output."""
    memory: int
    """Peak of the process, in bytes."""
    fixed: dict[str, int]
    """Reason -> units that are fixed by it; a unit may have several."""


def names() -> list[str]:
    """All networks, those of torchvision as ``torchvision:NAME``."""
    own = [plugin.name for plugin in MODELS.plugins() if not plugin.name.endswith(":")]
    return own + [f"torchvision:{name}" for name in torchvision.models.list_models(module=torchvision.models)]


def build(name: str, side: int | None = None) -> tuple[nn.Module, Tensor]:
    """A network with random weights in evaluation mode, and an example, of that `side` if it is torchvision's."""
    prefix, _, classifier = name.rpartition(":")
    if prefix:
        side = side or SIDES.get(classifier, 224)
        shape = (3, side, side)
        auxiliary = classifier in ("googlenet", "inception_v3")  # classifiers of training alone, which read units, too
        options = {"init_weights": False, "aux_logits": False} if auxiliary else {}
        network: nn.Module = torchvision.models.get_model(classifier, weights=None, **options)
    else:
        shape = (3, 32, 32)
        network = pb.create_model(name, input_shape=shape, num_classes=10, seed=0)
    count = sum(p.numel() for p in network.parameters())
    network = network.to(torch.float32 if count > LARGE else torch.float64).eval()
    generator = torch.Generator().manual_seed(0)
    fill(network, generator)
    example = torch.randn(1, *shape, generator=generator).to(next(network.parameters()).dtype)
    scale_statistics(network, example)
    return network, example


@torch.no_grad()
def measure(name: str, side: int | None = None) -> Row:
    """The row of one network, for images of that `side` if it is torchvision's."""
    start = time.perf_counter()
    network, example = build(name, side)
    before = time.perf_counter()
    groups = find_groups(network, example)
    found = time.perf_counter() - before
    kept = torch.ones(groups.count, dtype=torch.bool)
    order = torch.randperm(groups.count, generator=torch.Generator().manual_seed(1))
    kept[order[: round(REMOVED * groups.count)]] = False
    restore_last(groups, kept)
    mask = GroupMask(groups, kept)
    smaller = shrink(network, mask)
    parameters = sum(p.numel() for p in network.parameters())
    dense, left = flops(network, example).total, flops(smaller, example).total
    masked = mask.apply_(copied(network))
    del network
    pairs = list(zip(tensors(masked(example)), tensors(smaller(example)), strict=True))
    dtype = example.dtype
    return Row(
        name=name,
        side=example.shape[-1],
        parameters=parameters,
        dtype=str(dtype).removeprefix("torch."),
        units=sum(groups.shapes[axis.name][axis.dim] for axis in groups.roots if axis.name in groups.shapes),
        free=sum(int((of >= 0).sum()) for axis, of in groups.by_axis.items() if axis in groups.roots),
        parameters_left=sum(p.numel() for p in smaller.parameters()),
        flops=dense,
        flops_left=left,
        difference=max(float((a - b).abs().max()) / float(a.abs().max()) for a, b in pairs),
        limit=TOLERANCE.get(dtype, SINGLE),
        find_seconds=found,
        seconds=time.perf_counter() - start,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        fixed=fixed(groups),
    )


def fixed(groups: Groups) -> dict[str, int]:
    """Reason, without the names of modules and weights -> units of which it is one, most of them first."""
    found = Counter[str]()
    for axis in groups.roots:
        of, reasons = groups.by_axis.get(axis), groups.fixed.get(axis, ())
        count = groups.shapes[axis.name][axis.dim] if of is None else int((of < 0).sum())
        found.update(dict.fromkeys({QUOTED.sub("", reason) for reason in reasons}, count))
    return dict(found.most_common())


def rows(wanted: Sequence[str], path: Path) -> Iterator[Row]:
    """The rows of some networks, from the file or measured now."""
    known = {}
    if path.exists():
        known = {row["name"]: Row(**row) for row in map(json.loads, path.read_text().splitlines())}
    context = get_context("forkserver")
    context.set_forkserver_preload(["torchvision", "pai_bench"])  # once, for all networks
    for name in wanted:
        if name not in known:
            with ProcessPoolExecutor(1, mp_context=context) as process:
                known[name] = process.submit(measure, name).result()
            with path.open("a") as file:
                file.write(json.dumps(asdict(known[name])) + "\n")
        yield known[name]


INTRODUCTION = """# Every network without 30 % of its units

This page lists all classifiers of torchvision ({torchvision}) and all networks of pai-bench. Of each, with random
weights, `pb.find_groups` found the groups; 30 % of them, at random, were removed by `pb.shrink`. The smaller network
computed what the masked one did: *difference* is the largest one between their outputs, as a share of the largest
output; at most {double:.0e} was allowed in float64, and {single:.0e} in float32, in which networks with more than
{large:,} parameters were run. *Units* are the rows of all weights that make features, the classes included; *free*
are those that can be removed. *Weights left* and *operations left* are of the smaller network, for one image of the
side in the table. Seconds (one thread, other programs running) are those of `find_groups`; memory is the peak of the
whole process. All of it is made by

    OMP_NUM_THREADS=1 python -m benchmarks.structured -o reports/structured/networks.md

Of every network, the outputs are fixed, so its classes are not free. The last column shows what else is fixed: the
reason, and the units of which it is one. These are

* the streams of ConvNeXt and of transformers, since layer norm takes statistics over them (ViT also adds an embedding
  of positions); their hidden units are free, and so are the heads of ViT;
* the heads of Swin V1 and MaxViT, whose code counts heads and features, so that it does not run with fewer;
* all units that *go together*: what ties them makes all units of a layer one group, and no layer is removed completely.
  So it is with the heads of Swin V2, with the streams of the last stages of Swin and ConvNeXt, and with the channels of
  ShuffleNets in whose stages the shuffles tie all channels together, since halves stay equal.

The auxiliary classifiers of GoogLeNet and Inception V3, which only training uses, are left out.
"""

COLUMNS = ("side", "parameters", "units", "free", "weights left", "operations left", "difference", "seconds", "memory")
HEADER = f"\n| network | {' | '.join(COLUMNS)} | fixed, beside the classes |\n| --- |{' ---: |' * len(COLUMNS)} --- |\n"


def page(found: Sequence[Row]) -> str:
    """The page, as markdown."""
    text = INTRODUCTION.format(
        torchvision=torchvision.__version__.partition("+")[0],
        double=TOLERANCE[torch.float64],
        single=SINGLE,
        large=LARGE,
    )
    for title, chosen in (
        ("Networks of pai-bench", [row for row in found if ":" not in row.name]),
        ("Classifiers of torchvision", [row for row in found if ":" in row.name]),
    ):
        text += f"\n## {title}\n{HEADER}" + "".join(map(line, chosen))
    return text


def line(row: Row) -> str:
    """A network's line in the table."""
    reasons = (f"{reason}: {count:,}" for reason, count in row.fixed.items() if reason != "the network's output")
    cells = [
        row.name.rpartition(":")[2],
        str(row.side),
        f"{row.parameters:,}",
        f"{row.units:,}",
        f"{row.free / row.units:.1%}",
        f"{row.parameters_left / row.parameters:.1%}",
        f"{row.flops_left / row.flops:.1%}",
        f"{row.difference:.0e}" + (" (float32)" if row.dtype == "float32" else ""),
        f"{row.find_seconds:.2f}" if row.find_seconds < 10 else f"{row.find_seconds:.0f}",
        f"{row.memory / 2**30:.1f} GiB",
        "; ".join(reasons),
    ]
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="networks; all where none is named")
    parser.add_argument("--rows", type=Path, default=Path("networks.jsonl"), help="where rows are kept")
    parser.add_argument("-o", "--output", type=Path, help="write the page there")
    args = parser.parse_args()
    found = []
    for row in rows(args.names or names(), args.rows):
        found.append(row)
        print(line(row), end="", flush=True)
    failed = [row.name for row in found if not row.difference <= row.limit]
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(page(found))
    if failed:
        sys.exit(f"masked and smaller networks differ: {', '.join(failed)}")


if __name__ == "__main__":
    main()
