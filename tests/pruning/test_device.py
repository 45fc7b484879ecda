"""Scores and masks on a device that the host waits for: how often it does, and that the masks are the same.

Without such a device, the processor is taken for one: `far` makes every function take the way that it takes there.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import pai_bench as pb
from pai_bench.masks import OneShot, device_selection, select
from pai_bench.masks.selection import with_ties
from pai_bench.scoring import prunable_parameters
from pai_bench.support import transfers
from pai_bench.support.errors import UserError
from tests.made import UNSTRUCTURED
from tests.masks.test_selection import allocated

ALL = UNSTRUCTURED


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be read without waiting."""
    monkeypatch.setattr(transfers, "on_host", lambda *_tensors: False)


class Operations(TorchDispatchMode):
    """Counts the operations after which the host knows something that the device computed."""

    NAMES = frozenset(
        ["_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount"]
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype is torch.bool
            for given in args
            if isinstance(given, (list, tuple))
            for index in given
        )
        if name in self.NAMES or by_mask:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


class Methods(TorchFunctionMode):
    """Counts what reads a tensor without an operation, as long as it lies on the processor."""

    NAMES = frozenset(["tolist", "numpy", "cpu"])

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := getattr(func, "__name__", "")) in self.NAMES:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def waits(work: Callable[[], object]) -> int:
    """How often the host waits for the device."""
    with Operations() as operations, Methods(operations.seen):
        work()
    return sum(operations.seen.values())


def test_waiting_is_counted() -> None:
    x, keep = torch.arange(3.0), torch.tensor([True, False, True])
    reads: list[Callable[[], object]] = [
        lambda: float(x.sum()),
        lambda: bool(keep.all()),
        lambda: x.tolist(),
        lambda: x.numpy(),
        lambda: x[keep],
        lambda: x.clone().index_put_((keep,), torch.zeros(())),
        lambda: x.nonzero(),
        lambda: torch.equal(x, x),
        lambda: x.masked_select(keep),
        lambda: x.unique(),
    ]
    assert [waits(read) for read in reads] == [1] * len(reads)
    assert waits(lambda: (x + 1).sum().clone()) == 0


def example(name: str) -> tuple[nn.Module, pb.Batch]:
    model = pb.create_model(name, input_shape=(3, 32, 32), num_classes=10, seed=0)
    generator = torch.Generator().manual_seed(0)
    return model, pb.Batch(torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 3, 9, 3]))


NETWORKS = ["lenet-300-100", "vgg-11-bn", "resnet-20", "torchvision:resnet50"]


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("network", NETWORKS)
def test_a_score_waits_a_few_times_however_many_layers_there_are(network: str) -> None:
    model, batch = example(network)
    counts = {name: waits(partial(pb.get_criterion(name).score, model, batch)) for name in ALL}
    assert max(counts.values()) <= 3, counts
    assert counts["snip"] == 2  # for the targets, and for the sums of the scores
    accumulated = pb.Batch(batch.inputs, batch.targets, batches=2)
    assert waits(lambda: pb.get_criterion("snip", accumulate="score").score(model, accumulated)) == 3


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("network", ["vgg-11-bn", "resnet-20"])
@pytest.mark.parametrize(
    ("criterion", "options", "most"),
    [
        ("synflow", {}, 5),
        ("iter-snip", {}, 6),
        ("force", {}, 6),
        ("snip-it", {"scope": "layerwise"}, 9),
        ("iter-snip", {"min_per_layer": 3}, 9),
        ("snip:ties=remove", {}, 9),
    ],
)
def test_a_cut_waits_a_few_times_however_many_layers_there_are(
    network: str, criterion: str, options: dict[str, Any], most: int
) -> None:
    model, batch = example(network)

    def cuts(number: int) -> int:
        schedule = f"exponential:steps={number}" + ":returns=true" * (criterion == "force")
        return waits(lambda: pb.prune(model, batch, criterion, 0.9, schedule=schedule, **options))

    assert cuts(5) - cuts(2) <= 3 * most


@pytest.mark.parametrize("name", ALL)
def test_masks_are_those_of_the_host(name: str, request: pytest.FixtureRequest) -> None:
    model, batch = example("lenet-5-caffe")
    steps = "one-shot" if pb.get_criterion(name).schedule == OneShot() else "exponential:steps=3"
    names = [name, f"{name}:ties=keep", f"{name}:ties=remove"]
    options: list[dict[str, Any]] = [{}, {"scope": "layerwise"}, {"variant": "invert"}]

    def masks() -> list[pb.Mask]:
        found = [pb.prune(model, batch, one, 0.9, schedule=steps, **more) for one in names for more in options]
        return [*found, pb.prune(model, batch, name, 0.9, schedule=steps, min_per_layer=40)]

    here = masks()
    request.getfixturevalue("far")
    for one, other in zip(here, masks(), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def example_scores(kind: str, generator: torch.Generator) -> dict[str, Tensor]:
    """Scores of several tensors with few or many ties, of both signs, infinite ones, of two types, one not in order."""
    shapes = [(1,), (333,), (70, 3), (0,), (3000,), (20, 30)]
    scores = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "continuous": lambda s: s,
        "mixed types": lambda s: s.float() if s.numel() > 70 else s,
        "half": lambda s: s.bfloat16(),
        "ties": torch.round,  # -0.0 is among them
        "mostly zero": lambda s: s.clamp(min=1.0) - 1,
        "constant": torch.zeros_like,
        "infinite": lambda s: torch.where(s > 0.5, torch.inf, torch.where(s < -0.5, -torch.inf, s)),
    }
    scores[-1] = scores[-1].t()
    return {str(i): changes[kind](score) for i, score in enumerate(scores)}


KINDS = ["continuous", "mixed types", "half", "ties", "mostly zero", "constant", "infinite"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share_alive", [1.0, 0.5, 0.02])
@pytest.mark.parametrize("narrow", [False, True])
def test_selection_on_a_device_is_that_of_the_host(
    kind: str, share_alive: float, narrow: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With far too narrow a bracket, it is often wrong; tensors are joined, and equal scores numbered, in bits."""
    if narrow:
        for name, value in {"DIRECT": 10, "SIGMAS": 0.1, "SMALL": 400, "PIECE": 500, "CHUNK": 1024}.items():
            monkeypatch.setattr(device_selection, name, value)
    generator = torch.Generator().manual_seed(0)
    examples = []
    for _ in range(20):
        scores = example_scores(kind, generator)
        live = {name: torch.rand(score.shape, generator=generator) < share_alive for name, score in scores.items()}
        alive = None if share_alive == 1 else live
        left = {name: int(live[name].sum()) if alive else score.numel() for name, score in scores.items()}
        count = int(torch.randint(sum(left.values()) + 1, (1,), generator=generator))
        by_tensor = {name: round(0.3 * available) for name, available in left.items()}
        examples += [(scores, counts, alive, select(scores, counts, alive)) for counts in (count, by_tensor)]
    request.getfixturevalue("far")
    for scores, counts, alive, expected in examples:
        found = select(scores, counts, alive)
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], mask) for name, mask in expected.items())


@pytest.mark.usefixtures("far")
def test_a_selection_is_asked_for_little() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = {str(i): torch.randn(50_000, generator=generator) for i in range(20)}
    alive = select(scores, 900_000)
    per_tensor = dict.fromkeys(scores, 4000)
    assert waits(lambda: select(scores, 100_000)) == 1
    assert waits(lambda: select(scores, 100_000, alive)) == 2
    assert waits(lambda: select(scores, per_tensor)) == 1
    assert waits(lambda: select(scores, per_tensor, alive)) == 2
    zeros = {name: torch.zeros_like(score) for name, score in scores.items()}
    assert waits(lambda: select(zeros, 100_000)) == 1
    long = {"a": torch.zeros(2 * device_selection.CHUNK)}
    assert waits(lambda: select(long, 100_000)) == 2
    assert waits(lambda: with_ties(scores, alive, "keep")) == 1


@pytest.mark.usefixtures("far")
def test_what_cannot_be_ranked_or_kept_on_a_device() -> None:
    for size in (5, 2 * device_selection.DIRECT):
        with pytest.raises(UserError, match="the scores hold NaN"):
            select({"a": torch.full((size,), torch.nan)}, 2)
    with pytest.raises(UserError, match="3 connections cannot be kept of 2"):
        select({"a": torch.ones(2)}, 3)
    with pytest.raises(UserError, match="2 connections cannot be kept of 1"):
        select({"a": torch.ones(2)}, 2, {"a": torch.tensor([True, False])})


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("kind", ["continuous", "constant"])
@pytest.mark.parametrize("some", [False, True])
def test_selection_on_a_device_takes_less_memory_than_the_scores(kind: str, some: bool) -> None:
    """The masks, two more of the largest tensor, and scores of the small ones."""
    scores = {name: torch.rand(size) for name, size in {"large": 2**24, "small": 2**20, "other": 2**20}.items()}
    if kind == "constant":
        scores = {name: torch.zeros_like(score) for name, score in scores.items()}
    size = sum(score.numel() for score in scores.values())
    alive = select(scores, size // 2) if some else None
    assert allocated(lambda: select(scores, size // 20, alive)) < 4 * size


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 5000])
def test_ones_are_counted_without_a_carry(size: int) -> None:
    for mask in (torch.ones(size, dtype=torch.bool), torch.rand(size) < 0.5):
        for part in (mask, mask[3:], mask[::2]):  # masks of tensors that were joined are parts of one
            assert int(transfers.count(part)) == int(part.sum())


def test_values_of_several_types_are_read_exactly(request: pytest.FixtureRequest) -> None:
    scalars = [torch.tensor(value) for value in (True, 2**40 + 1, 0.1, 7)] + [torch.tensor(0.1, dtype=torch.float64)]
    expected = [scalar.item() for scalar in scalars]
    assert transfers.read_scalars(scalars) == expected
    request.getfixturevalue("far")
    assert transfers.read_scalars(scalars) == expected
    assert transfers.read_scalars([]) == []
    pairs = [(torch.ones(2), torch.ones(2)), (torch.ones(2), torch.ones(3)), (torch.ones(2), torch.zeros(2))]
    assert transfers.equal(pairs) == [True, False, False]


@pytest.mark.gpu
@pytest.mark.parametrize("network", NETWORKS)
def test_a_score_on_a_gpu_waits_at_most_five_times(network: str) -> None:
    model, batch = example(network)
    model, batch = model.to("cuda"), batch.to("cuda")
    snip = pb.get_criterion("snip")
    snip.score(model, batch)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="called a synchronizing CUDA operation") as seen:
            snip.score(model, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([one for one in seen if "synchronizing CUDA operation" in str(one.message)]) <= 5


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_selection_on_a_gpu_is_that_of_the_host(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        scores = example_scores(kind, generator)
        count = int(torch.randint(sum(score.numel() for score in scores.values()) + 1, (1,), generator=generator))
        expected = select(scores, count)
        found = select({name: score.to("cuda") for name, score in scores.items()}, count)
        assert all(torch.equal(found[name].cpu(), mask) for name, mask in expected.items())


NONDETERMINISTIC = {
    "resnet-20": (3, 32, 32),
    "alexnet-s": (3, 32, 32),  # its pools overlap
    "lstm-s": (1, 28, 28),
    "torchvision:vit_b_16": (3, 224, 224),  # with more than one block of keys
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("network", NONDETERMINISTIC)
def test_scores_have_the_same_bits_twice(network: str, name: str) -> None:
    shape = NONDETERMINISTIC[network]
    model = pb.create_model(network, input_shape=shape, num_classes=10).to("cuda")
    generator = torch.Generator().manual_seed(0)
    batch = pb.Batch(torch.randn(16, *shape, generator=generator), torch.arange(16) % 10).to("cuda")
    first, second = (pb.get_criterion(name).score(model, batch) for _ in range(2))
    assert first.keys() == second.keys() == prunable_parameters(model).keys()
    for layer in first:
        assert torch.equal(first[layer], second[layer]), layer
