"""Small trials, trained as the harness does it, and by hand: one step of torch's own optimisers after the other."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.data import Split
from pai_bench.experiment import stages
from pai_bench.experiment.changes import MaskChanges
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.stages import Pruned
from pai_bench.experiment.trial import Trial
from pai_bench.support.identity import stream
from pai_bench.training.trainer import Engine, Together
from tests.criteria.plain_moments import first_of

Named = Mapping[str, Tensor]


class Double(nn.Module):
    """Gives its input in float64."""

    def forward(self, input: Tensor) -> Tensor:
        return input.double()


def mlp(shape: tuple[int, ...], classes: int) -> nn.Module:
    """In float64, so that only the order of sums differs, which no decision depends on."""
    first, second = nn.Linear(math.prod(shape), 12), nn.Linear(12, 8)
    layers = first, nn.ReLU(), second, nn.ReLU(), nn.Linear(8, classes)
    return nn.Sequential(Double(), nn.Flatten(), *layers).double()


def normed(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The same, with a convolution and batch norm."""
    layers = nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, classes)
    return nn.Sequential(Double(), *layers).double()


def images() -> pb.DataSet:
    """43 images of 3 classes: an epoch has 4 batches of 10."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (60, 1, 6, 6), generator=generator, dtype=torch.uint8)
    targets = torch.arange(60) % 3
    return pb.DataSet("images", Split(inputs[:43], targets[:43]), Split(inputs[43:], targets[43:]))


def sweep(criteria: Sequence[Any], model: Callable[..., nn.Module] = mlp, **keys: Any) -> pb.Sweep:
    """Of trainings of 6 epochs of 4 steps, by SGD with momentum and weight decay."""
    usual: dict[str, Any] = {"sparsities": [0.8], "seeds": 1, "device": "cpu", "batch_size": 10, "score_batch": 9}
    usual |= {"epochs": 6, "protocol": "short", "learning_rate": 0.1, "weight_decay": 0.01}
    return pb.Sweep(criteria=criteria, models=[model], data=[images()], **{**usual, **keys})


def prepared(runner: Runner, trial: Trial) -> Pruned:
    """A trial's network, ready for training."""
    model = runner.inputs.model(trial)
    return stages.apply(runner.inputs, trial, model, runner.probe.mask(trial, model)[0], train_disconnected=True)


def trained(runner: Runner, trials: Sequence[Trial], together: Together = "stacked") -> list[Pruned]:
    """The networks of trials after training in one program, and their last masks."""
    networks = [prepared(runner, trial) for trial in trials]
    changes = MaskChanges(runner.inputs, networks)
    engine = Engine(together)
    stages.train_networks(runner.inputs, networks, lambda *_: None, engine, None, changes.events)
    return changes.finished(networks)


class PlainTraining:
    """The training of a trial by hand. `after` and `instead` have what is done after, and in place of, steps."""

    def __init__(self, runner: Runner, trial: Trial, mask: Named | None = None) -> None:
        self.trial, self.protocol, self.inputs, self.step = trial, trial.protocol, runner.inputs, 0
        self.network = runner.inputs.model(trial)
        self.mask = {n: torch.ones_like(p, dtype=torch.bool) for n, p in self.network.named_parameters() if p.dim() > 1}
        self.mask |= dict(mask or {})
        self.after: dict[int, Callable[[], None]] = {}
        self.instead: dict[int, Callable[[Named], None]] = {}
        weights, decay, beta = list(self.network.parameters()), self.protocol.weight_decay, self.protocol.momentum
        if self.protocol.optimizer == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(weights, betas=(beta, 0.999), weight_decay=decay)
        else:
            self.optimizer = torch.optim.SGD(weights, 1.0, momentum=beta, weight_decay=decay)
        self.keep_zero()

    def run(self) -> nn.Module:
        """All epochs, with the learning rate of one cycle: up in the first quarter, then down to zero."""
        data, order = self.inputs.data(self.trial), torch.Generator().manual_seed(stream(self.trial.seed, "order"))
        inputs, targets = data.normalised(data.train.inputs), data.train.targets
        count, batch = len(targets), self.protocol.batch_size
        steps = self.protocol.epochs * (count // batch)
        self.after.get(0, lambda: None)()
        for _ in range(self.protocol.epochs):
            for chosen in torch.randperm(count, generator=order)[: count // batch * batch].split(batch):
                self.network.train()
                middle = (self.step + 0.5) / steps
                for group in self.optimizer.param_groups:
                    group["lr"] = self.protocol.learning_rate * min(middle / 0.25, (1 - middle) / 0.75)
                gradients = self.gradients(inputs[chosen], targets[chosen])
                if self.step in self.instead:
                    self.instead[self.step](gradients)
                else:
                    self.optimizer.step()
                    self.keep_zero()
                self.step += 1
                self.after.get(self.step, lambda: None)()
        return self.network

    def gradients(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Those of the mean cross-entropy, also at removed weights, which are zero."""
        self.optimizer.zero_grad()
        self.loss = F.cross_entropy(self.network(inputs), targets)
        self.loss.backward()
        return {name: p.grad.clone() for name, p in self.network.named_parameters() if p.grad is not None}

    def products(self) -> dict[str, Tensor]:
        """The products of weights and gradients on the score batch, batch norm as the criterion has it."""
        batch = self.inputs.score_batch(self.trial)
        before = copy.deepcopy(dict(self.network.named_buffers()))
        self.network.train(self.trial.criterion is not None and self.trial.criterion.bn == "train")
        gradients = self.gradients(batch.inputs, batch.targets)
        for name, buffer in self.network.named_buffers():
            buffer.copy_(before[name])
        return {name: gradients[name] * p.detach() for name, p in self.network.named_parameters()}

    def weights(self) -> dict[str, Tensor]:
        """Of the layers that are pruned."""
        return {name: self.network.get_parameter(name).detach() for name in self.mask}

    @torch.no_grad()
    def keep_zero(self) -> None:
        for name, keep in self.mask.items():
            self.network.get_parameter(name).mul_(keep)

    @torch.no_grad()
    def replace(self, mask: Named, values: Named | None = None) -> None:
        """Another mask: what stays keeps value and memory, what comes begins at zero, or its value, without any."""
        for name, keep in mask.items():
            weight, stays = self.network.get_parameter(name), self.mask[name] & keep
            weight.mul_(stays)
            if values is not None:
                weight.add_(values[name] * (keep & ~stays))
            for key, memory in self.optimizer.state[weight].items():
                if key != "step":
                    memory.mul_(stays)
        self.mask |= dict(mask)


def highest(scores: Named, count: int, among: Named) -> dict[str, Tensor]:
    """The highest scores of all layers together."""
    mask = first_of(flat(scores), count, flat(among))
    parts = mask.split([score.numel() for score in scores.values()])
    return {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


def flat(tensors: Named) -> Tensor:
    """All values, one layer after the other."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def divided(count: int, sizes: Iterable[int]) -> list[int]:
    """A number in proportion to sizes, rounded by largest remainder."""
    sizes = list(sizes)
    parts = [count * size // sum(sizes) for size in sizes]
    remainders = [count * size % sum(sizes) for size in sizes]
    for i in sorted(range(len(sizes)), key=lambda i: (-remainders[i], i))[: count - sum(parts)]:
        parts[i] += 1
    return parts


def same(network: nn.Module, expected: nn.Module) -> None:
    """The same weights and running statistics, up to the order of sums."""
    found = network.state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found[name], tensor, atol=1e-11, rtol=1e-9)


def runner_of(
    criteria: Sequence[Any], model: Callable[..., nn.Module] = mlp, **keys: Any
) -> tuple[Runner, list[Trial]]:
    """A runner, and the trials of a sweep, the dense reference first."""
    catalog = resolve(sweep(criteria, model, **keys))
    return Runner(catalog), catalog.trials
