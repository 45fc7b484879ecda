"""What the run uses of pai-bench's inside to score and to cut; `engine` has what trains."""

import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

import pai_bench as pb
from benchmarks.gpu import engine
from pai_bench.analyses import conformance
from pai_bench.analyses.cost import measure_cost, measure_step
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.masks import Schedule, get_schedule, selection
from pai_bench.masks.cutting import cut as one_cut
from pai_bench.pruning.pruner import by_scope, scored
from pai_bench.pruning.variant import VARIANTS
from pai_bench.results import Cost
from pai_bench.scoring import MaskedModel, Scorer, get_criterion, prunable_parameters
from pai_bench.support.registry import CRITERIA, SCHEDULES


def criteria() -> list[str]:
    """Names of all criteria of single weights that are registered, and prune before training alone."""
    made = {plugin.name: get_criterion(plugin.name) for plugin in CRITERIA.plugins() if not plugin.target.structured}
    return [name for name, criterion in made.items() if not (criterion.during or criterion.begins_dense)]


def schedules(steps: int | None = None) -> list[Schedule]:
    """Every schedule, with several cuts also with connections that return; with so many `steps` at most."""
    found: list[Schedule] = []
    for name, cls in SCHEDULES.items():
        usual = cls() if steps is None or name == "one-shot" else cls(steps=min(steps, cls().steps))
        found += [usual, *([] if name == "one-shot" else [dataclasses.replace(usual, returns=True)])]
    return found


def shortened(criterion: pb.Criterion, steps: int | None) -> Schedule:
    """The criterion's own schedule, in so many steps at most."""
    own = criterion.schedule
    return own if steps is None else dataclasses.replace(own, steps=min(steps, own.steps))


def variants() -> list[str]:
    """Every sanity variant, `erk` standing for the criteria that a quota may come from."""
    return [variant.replace("NAME", "erk") for variant in VARIANTS]


def kinds() -> list[str]:
    """Names of small networks, one of each kind that the conformance suite has."""
    return list(conformance.NETWORKS)


def example(kind: str) -> tuple[nn.Module, pb.Batch]:
    """A small network in float64, and a batch for it."""
    return conformance.example(kind)


@dataclass(frozen=True)
class Cut:
    """One cut of a schedule, by the CPU and by the device, both from the CPU's mask of the cut before."""

    scores: Mapping[str, Tensor]
    device_scores: Mapping[str, Tensor]
    mask: Mapping[str, Tensor]
    device_mask: Mapping[str, Tensor]
    """On the CPU, as all others."""
    by_layer: bool
    """Whether each layer is ranked for itself."""


def cuts(
    model: nn.Module,
    batch: pb.Batch,
    criterion: pb.Criterion,
    device: torch.device,
    *,
    sparsity: float = 0.9,
    schedule: Schedule | str | None = None,
    seed: int = 0,
) -> Iterator[Cut]:
    """The cuts of a pruning of `model`, on the CPU and on the device."""
    steps = criterion.schedule if schedule is None else get_schedule(schedule)
    twin, there_batch = copy.deepcopy(model).to(device), batch.to(device)
    mask: Mapping[str, Tensor] | None = None
    options: dict[str, Any] = {"seed": seed, "returns": steps.returns}
    with Scorer(criterion, model, **options) as here, Scorer(criterion, twin, **options) as there:
        division = by_scope(criterion, here.shapes, criterion.scope)
        for density in steps.densities(1 - sparsity):
            moved = None if mask is None else pb.Mask(mask).to(device)
            pairs = [(here, batch, mask), (there, there_batch, moved)]
            found = [scored(scorer, given, density, before) for scorer, given, before in pairs]
            masks = [
                one_cut(
                    scores,
                    density,
                    alive=None if steps.returns else before,
                    division=division,
                    ties=criterion.ties,
                )
                for scores, (_, _, before) in zip(found, pairs, strict=True)
            ]
            there_scores = {name: score.cpu() for name, score in found[1].items()}
            yield Cut(found[0], there_scores, masks[0], masks[1].to("cpu"), division is not None)
            mask = masks[0]


@contextmanager
def without_onednn() -> Iterator[None]:
    """A block in which convolutions of the CPU are torch's own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration", UserWarning)  # its flag knows of other devices
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def rounded() -> list[str]:
    """Which products in single precision are rounded to TF32 now."""
    backends: Any = torch.backends
    chains = {
        "matrix products": [backends.cuda.matmul],
        "convolutions": [backends.cudnn.conv, backends.cudnn],
        "recurrent layers": [backends.cudnn.rnn, backends.cudnn],
    }
    found = {
        name: next((p for one in [*chain, backends] if (p := one.fp32_precision) != "none"), "none")
        for name, chain in chains.items()
    }
    return [name for name, precision in found.items() if precision == "tf32"]


def rounded_while_scoring(device: torch.device) -> list[str]:
    """Which products are rounded to TF32 while a formula runs."""
    seen: list[str] = []

    @dataclass(frozen=True)
    class Looks(pb.Criterion):
        def score(self, model: MaskedModel, batch: pb.Batch) -> pb.Scores:
            seen.extend(rounded())
            return model.uniform()

    batch = pb.Batch(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
    pb.get_criterion(Looks()).score(nn.Linear(2, 2).to(device), batch.to(device))
    return seen


def select(scores: Mapping[str, Tensor], count: int, alive: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Masks of the `count` highest scores over all tensors together."""
    return selection.select(scores, count, alive)


def cut(scores: Mapping[str, Tensor], count: int, ties: Literal["keep", "remove"]) -> Mapping[str, Tensor]:
    """Masks of about `count` of the highest scores, in which equal ones are treated alike."""
    size = sum(score.numel() for score in scores.values())
    return one_cut(dict(scores), count / size, ties=ties)


@dataclass(frozen=True)
class Costs:
    """A network, the criteria by which it is scored, and what measures them."""

    runner: Runner
    trials: Mapping[str, Trial]
    """Criterion -> trial."""

    def step_seconds(self, rounds: int) -> float:
        """Seconds of a training step."""
        return measure_step(self.runner, next(iter(self.trials.values())), seconds=0.2 * rounds)

    def measure(self, criterion: str, step: float, *, rounds: int, budget: float) -> Cost:
        """What a criterion costs, beside the seconds of a training `step`."""
        found = measure_cost(self.runner, self.trials[criterion], step, rounds=rounds, budget=budget)
        products = rounded_while_scoring(self.runner.device)
        precision = f"fp32 with {' and '.join(products)} in tf32" if products and self.cuda else "fp32"
        return dataclasses.replace(found, precision=precision, memory_format="contiguous")

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.runner.device.type == "cuda"


def costs(name: str, data: pb.DataSet, device: torch.device, *, batch: int) -> Costs:
    """What measures the costs of all criteria on a network, with score batches and training batches of one size."""
    sweep = pb.Sweep(
        criteria=criteria(),
        models=[engine.built_once(name, data.input_shape)],
        data=[data],
        sparsities=(0.95,),
        seeds=1,
        score_batch=batch,
        batch_size=batch,
        device=str(device),
    )
    catalog = resolve(sweep)
    trials = {trial.criterion.name: trial for trial in catalog.trials if trial.criterion is not None}
    return Costs(Runner(catalog), trials)


def prunable_shapes(name: str, shape: tuple[int, ...]) -> dict[str, torch.Size]:
    """Shapes of a network's prunable weights, without drawing any."""
    with torch.device("meta"):
        found = pb.create_model(name, input_shape=shape, num_classes=10)
    return {key: weight.shape for key, weight in prunable_parameters(found).items()}
