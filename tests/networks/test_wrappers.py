"""Networks inside `torch.compile` or data parallelism, with checkpoints, with scripted parts, or none at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

import pai_bench as pb
from pai_bench.scoring import prunable_parameters


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Softplus(), nn.Linear(16, 16), nn.Softplus(), nn.Linear(16, 4))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(20, 8, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 4


class Checkpointed(nn.Module):
    """The layers of `mlp`, one of which is computed again during backpropagation."""

    def __init__(self, place: int, *, reentrant: bool | None) -> None:
        super().__init__()
        self.layers, self.place, self.reentrant = mlp(), place, reentrant

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self.layers):
            x = checkpoint.checkpoint(layer, x, use_reentrant=self.reentrant) if place == self.place else layer(x)
        return x


def same(first: pb.Mask, second: pb.Mask) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first.values(), second.values(), strict=True))


@pytest.mark.parametrize("criterion", ["snip", "grasp", "force"])
@pytest.mark.parametrize("place", [0, 2])
def test_reentrant_checkpoints_change_no_score(criterion: str, place: int) -> None:
    expected = pb.prune(mlp(), batch(), criterion, 0.9, schedule="linear:steps=2")
    found = pb.prune(Checkpointed(place, reentrant=True), batch(), criterion, 0.9, schedule="linear:steps=2")
    assert same(found, expected)
    assert issubclass(checkpoint.CheckpointFunction, torch.autograd.Function)  # what it was before


@pytest.mark.parametrize("reentrant", [True, False])
def test_synflow_names_the_checkpoint_that_it_cannot_score(reentrant: bool) -> None:
    with pytest.raises(pb.UserError, match=r"synflow: .*checkpoint.*switch that off while scoring"):
        pb.prune(Checkpointed(0, reentrant=reentrant), batch(), "synflow", 0.9)


def compiled(model: nn.Module) -> nn.Module:
    found: Any = torch.compile(model, backend="aot_eager")
    assert isinstance(found, nn.Module)
    return found


def compiled_part() -> nn.Module:
    model = mlp()
    model[2] = compiled(model[2])
    return model


def compiled_in_place() -> nn.Module:
    model = mlp()
    model.compile(backend="aot_eager")
    return model


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "compiled": lambda: compiled(mlp()),
    "compiled in place": compiled_in_place,
    "compiled part": compiled_part,
    "parallel": lambda: nn.DataParallel(mlp()),
    "both": lambda: nn.DataParallel(compiled(mlp())),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])  # aot_eager has no second derivative of its own
def test_a_wrapped_network_is_pruned_like_the_one_inside(name: str, criterion: str) -> None:
    model, inside = WRAPPED[name](), mlp()
    mask = pb.prune(model, batch(), criterion, 0.8, schedule="linear:steps=2")
    expected = pb.prune(inside, batch(), criterion, 0.8, schedule="linear:steps=2")
    assert same(mask, expected)
    if name != "compiled part":  # whose parameters the network itself has under other names
        assert list(mask) == list(expected)
    assert pb.connectivity(model, mask, batch()[0][:1]).effective_sparsity >= mask.sparsity
    mask.apply_(model)
    expected.apply_(inside)
    for one, other in zip(model.parameters(), inside.parameters(), strict=True):
        assert torch.equal(one, other)


def test_distributed_networks(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mask = pb.prune(nn.parallel.DistributedDataParallel(mlp()), batch(), "snip", 0.8)
    finally:
        torch.distributed.destroy_process_group()
    assert list(mask) == ["0.weight", "2.weight", "4.weight"]


def compiled_network(_shape: object, classes: int) -> nn.Module:
    return compiled(nn.Sequential(nn.Flatten(), nn.Linear(784, classes)))


def test_a_sweep_over_a_compiled_network(tmp_path: Any) -> None:
    sweep = pb.Sweep(criteria=["snip"], models=[compiled_network], sparsities=[0.5], seeds=2, epochs=1, lanes=2)
    assert set(pb.run(sweep, out=tmp_path).status) == {"done"}


@pytest.mark.parametrize("script", [torch.jit.script, lambda part: torch.jit.trace(part, torch.zeros(1, 16))])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_parts_are_refused(script: Callable[[nn.Module], nn.Module]) -> None:
    part = script(nn.Linear(16, 16))
    model = mlp()
    model[2] = part
    mask = pb.Mask({"0.weight": torch.ones(16, 8, dtype=torch.bool)})
    for what in (
        lambda: pb.prune(model, batch(), "snip", 0.9),
        lambda: pb.get_criterion("random").score(model, pb.Batch(*batch())),
        lambda: pb.connectivity(model, mask, batch()[0][:1]),
        lambda: prunable_parameters(model),
    ):
        with pytest.raises(pb.UserError, match=r"'2' is compiled by torch.jit.*give what it was compiled from"):
            what()
    with pytest.raises(pb.UserError, match=r"the model is compiled by torch\.jit"):
        pb.prune(part, batch(), "snip", 0.9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("lenet", "not 'lenet'; pai_bench.create_model builds one by name"),
        (mlp, "not mlp; give the network that mlp builds"),
        (nn.Linear, "give the network that Linear builds"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_network(given: Any, message: str) -> None:
    for what in (lambda: pb.prune(given, batch()), lambda: pb.get_criterion("snip").score(given, pb.Batch(*batch()))):
        with pytest.raises(pb.UserError, match=message):
            what()
