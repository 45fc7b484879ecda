"""Connectivity: the paths from a network's inputs to its outputs that a mask keeps."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pai_bench.graph.flops import Flops, flops_of
from pai_bench.graph.operands import Operands, operands
from pai_bench.graph.reachability import Count, Reach
from pai_bench.graph.tracing import Trace, trace
from pai_bench.masks.mask import Mask
from pai_bench.networks.layers import usual_names
from pai_bench.networks.private_copy import BATCH_NORMS, private_copy
from pai_bench.networks.wrappers import refuse_scripted, unwrapped, without_compilation
from pai_bench.support.arrays import on_cpu, with_torch_defaults
from pai_bench.support.errors import UserError
from pai_bench.support.garbage import no_collection
from pai_bench.support.randomness import random_state
from pai_bench.support.torch_internals import ConvBase

logger = logging.getLogger(__name__)

TABLES = (nn.Embedding, nn.EmbeddingBag)
"""Layers with a row, not a column, for each input feature, that is, each token."""


@dataclass(frozen=True, kw_only=True)
class LayerConnectivity:
    """Connectivity of one prunable parameter, in numbers of connections, units (outputs) and input features.

    A unit or an input feature is dead if none of its connections is effective.
    """

    name: str
    size: int
    """Connections, kept or not."""
    kept: int
    effective: int
    """Connections that are kept and lie on a path."""
    units: int
    dead_units: int
    features: int
    dead_features: int

    @property
    def dead(self) -> bool:
        """Whether nothing of the layer is effective, kept or not."""
        return not self.effective

    @property
    def density(self) -> float:
        """Share of the connections that is kept, in [0, 1]."""
        return self.kept / self.size

    @property
    def effective_density(self) -> float:
        """Share of the connections that is kept and lies on a path, in [0, 1]."""
        return self.effective / self.size


@dataclass(frozen=True, kw_only=True)
class Connectivity:
    """The paths through a network that a mask keeps. The values of the weights do not matter.

    A connection is **effective** if it lies on a path of kept connections from an element of the input to an element
    of the output. A unit without inputs gives a constant, its bias, which is not a path. A kept bias, if biases are
    prunable, is effective if its unit lies on a path.
    """

    connected: bool
    """Whether any output depends on any input."""
    layers: tuple[LayerConnectivity, ...]
    """One for each parameter of the mask, in its order."""
    effective_mask: Mask
    """The effective connections."""
    first_cut: str | None
    """In a disconnected network, the first layer in order of execution after which nothing depends on the input."""
    severed_shortcuts: tuple[str, ...]
    """Branches that carry nothing into a sum that depends on the input, as "BRANCH into SUM" by module."""
    log10_paths: float | None
    """Common logarithm of the number of paths. None where there is no such number, as with a product of activations."""
    unknown: tuple[str, ...]
    """Operations without a rule, whose results are assumed to depend on all of their inputs."""
    computed: tuple[str, ...] = ()
    """Parameters from which the network computes weights that may differ from zero where the parameter is removed."""

    @property
    def dead_layers(self) -> tuple[str, ...]:
        """Names of the parameters without an effective connection."""
        return tuple(layer.name for layer in self.layers if layer.dead)

    @cached_property
    def size(self) -> int:
        """Number of connections, kept or not."""
        return sum(layer.size for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Share of the connections that the mask removes, in [0, 1]."""
        return 1 - sum(layer.kept for layer in self.layers) / self.size

    @property
    def effective_density(self) -> float:
        """Share of the connections that is kept and lies on a path, in [0, 1]."""
        return sum(layer.effective for layer in self.layers) / self.size

    @property
    def effective_sparsity(self) -> float:
        """1 - effective density (Vysogorets and Kempe 2021, arXiv:2107.02306)."""
        return 1 - self.effective_density


def connectivity(
    model: nn.Module, mask: Mapping[str, Tensor], example_input: Tensor, *, paths: bool = True
) -> Connectivity:
    """The paths through `model` that `mask` keeps.

    Forward reachability from the inputs and backward reachability from the outputs, in Boolean arithmetic, over the
    operations of one forward pass of `example_input`, of shape (batch, ...), whose values do not matter. The model has
    to do the same operations for all data. It is not changed: a copy of it runs on the CPU in evaluation mode.
    Parameters that `mask` does not name are kept whole.

    * Normalisation passes element by element: a statistic is not a path.
    * A product passes what either factor passes, a maximum all elements that it is taken over, attention all keys and
      values that its own mask allows, and an embedding any token.
    * The result of an operation without a rule depends on all of its inputs; a warning names the operation.

    Without `paths`, paths are not counted, which saves a third of the time.

    Raises `UserError` for an empty example, a mask that does not fit the model, and a network that does different
    operations for different data. Effective sparsity: Vysogorets and Kempe 2021, arXiv:2107.02306.
    """
    check_example(example_input)
    mask = mask if isinstance(mask, Mask) else Mask(mask)
    connections = Connections(model, example_input)
    mask.parameters_of(model)
    return connections.under(mask, paths=paths)


def check_example(example_input: object) -> None:
    """Raise UserError for an example input that is no tensor, or empty."""
    if not isinstance(example_input, Tensor):
        raise UserError(f"an example input is a tensor, with its batch dimension, not {type(example_input).__name__}")
    if not example_input.numel():
        raise UserError(f"the example input is empty: its shape is {tuple(example_input.shape)}")


class Connections:
    """The connectivity of one network, traced once, under one mask after the other."""

    @on_cpu
    def __init__(self, model: nn.Module, example_input: Tensor) -> None:
        model = unwrapped(model)
        refuse_hidden(model)
        with random_state(0), torch.inference_mode(False), no_collection(), without_compilation():
            twin = private_copy(model, [], "eval")
            if len(example_input) == 1 and any(
                isinstance(module, BATCH_NORMS) and module.running_mean is None for module in twin.modules()
            ):
                example_input = example_input.expand(2, *example_input.shape[1:])  # one example has no statistics
            if any(tensor.device.type != "cpu" for tensor in (*twin.parameters(), *twin.buffers())):
                twin = twin.cpu()
            self.trace: Trace = trace(twin, example_input.detach().cpu().clone())
        self.parameters = dict(twin.named_parameters())
        self.modules = dict(twin.named_modules())
        self._warned: set[str] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of the results of all operations, and of the parameters."""
        results = (tensor for operation in self.trace.operations for tensor in operation.results)
        return sum(tensor.nbytes for tensor in (*results, *self.parameters.values()))

    @with_torch_defaults
    def connected(self, mask: Mapping[str, Tensor]) -> bool:
        """Whether any output depends on any input under `mask`; takes half the time of `under` or less."""
        kept = {name: keep.to("cpu", torch.float32) for name, keep in mask.items()}
        with torch.inference_mode(False), torch.no_grad():
            reach = Reach(self.trace, self.parameters, kept)
        self._warn(reach.unknown)
        return any(bool(output.any()) for output in reach.outputs)

    @with_torch_defaults
    def under(self, mask: Mask, *, paths: bool = True) -> Connectivity:
        """The connectivity under `mask`.

        Raises `UserError` for a network that changes in place a value that it has used before.
        """
        try:
            with torch.inference_mode(False), torch.enable_grad(), no_collection():
                return self._under(mask, paths)
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            problem = "the network changes in place a value that it has used before, which cannot be followed"
            raise UserError(f"{problem}; let the operation return a new one") from error

    def _under(self, mask: Mask, paths: bool) -> Connectivity:
        kept = {name: keep.to("cpu", torch.float32).requires_grad_() for name, keep in mask.items()}
        reach = Reach(self.trace, self.parameters, kept)
        self._warn(reach.unknown)
        self._warn_of_computed(reach.computed)
        connected = any(bool(output.any()) for output in reach.outputs)
        used, carried = self._backward(reach, kept) if connected else ({}, [])
        zero = torch.zeros(())
        effective = {n: (used.get(n, zero) > 0.5) & keep.cpu() for n, keep in mask.items()}
        return Connectivity(
            connected=connected,
            layers=tuple(self._layer(name, mask[name], effective[name]) for name in mask),
            effective_mask=Mask(effective),
            first_cut=None if connected else first_cut(reach),
            severed_shortcuts=severed(reach, carried),
            log10_paths=self._paths(effective) if paths and not reach.unknown else None,
            unknown=tuple(f"{name} in {module!r}" for name, module in reach.unknown.items()),
            computed=tuple(sorted(reach.computed)),
        )

    def _backward(self, reach: Reach, kept: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor | None]]:
        """Gradients of the outputs' reach: of the kept connections by name, and of the result of each sum."""
        whole = torch.stack([output.sum() for output in reach.outputs]).sum()
        # sums before the first weights have no gradient
        sums = [i for i, sum_ in enumerate(reach.sums) if sum_.result.requires_grad]
        wanted = [*kept.values(), *(reach.sums[i].result for i in sums)]
        gradients = (
            torch.autograd.grad(whole, wanted, allow_unused=True) if whole.requires_grad else [None] * len(wanted)
        )
        used = {name: used for name, used in zip(kept, gradients, strict=False) if used is not None}
        carried = dict(zip(sums, gradients[len(kept) :], strict=True))
        return used, [carried.get(i) for i in range(len(reach.sums))]

    def _paths(self, effective: Mapping[str, Tensor]) -> float | None:
        return Count(self.trace, self.parameters, {name: keep.float() for name, keep in effective.items()}).log10

    def _warn(self, unknown: Mapping[str, str]) -> None:
        for name in unknown.keys() - self._warned:
            self._warned.add(name)
            logger.warning("connectivity: %s in %r is taken to pass everything to everything", name, unknown[name])

    def _warn_of_computed(self, names: set[str]) -> None:
        if new := sorted(names - self._warned):
            self._warned.update(new)
            text = "the network computes its weights from it, so that a removed entry need not be a removed connection"
            logger.warning("connectivity: %s: %s", ", ".join(new), text)

    def _layer(self, name: str, keep: Tensor, effective: Tensor) -> LayerConnectivity:
        module = self.modules[owner(name)]
        own = effective.dim() > 1 and not is_usual(name, module)
        groups = self._operands.groups.get(name, 1) if own else 1
        units, features = axes(effective, module, groups)
        if own and name in self._operands.inputs_first:
            units, features = features, units
        return LayerConnectivity(
            name=name,
            size=keep.numel(),
            kept=int(keep.count_nonzero()),
            effective=int(effective.count_nonzero()),
            units=units.numel(),
            dead_units=units.numel() - int(units.count_nonzero()),
            features=features.numel(),
            dead_features=features.numel() - int(features.count_nonzero()),
        )

    @cached_property
    def flops(self) -> Flops:
        """The floating-point operations of the dense network for one example."""
        return flops_of(self.trace, self._operands, len(self.trace.input))

    @cached_property
    def _operands(self) -> Operands:
        return operands(self.trace, self.parameters)


def refuse_hidden(model: nn.Module) -> None:
    """Raise for a network whose operations cannot be traced, or whose parameters have no values yet."""
    refuse_scripted(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise UserError(f"{name!r} has no shape yet: run the network once on an example")
        if tensor.is_meta:
            raise UserError(f"{name!r} is on the device meta and has no values: build the model on a real one")


def owner(name: str) -> str:
    """The name of the layer that a parameter belongs to, also of a parametrised one."""
    return name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def is_usual(name: str, module: nn.Module) -> bool:
    """Whether a parameter belongs to a layer of torch, so that the meaning of its dimensions is known."""
    return name.rpartition(".")[2] in usual_names(module, biases=True) or isinstance(module, TABLES)


def axes(effective: Tensor, module: nn.Module, groups: int) -> tuple[Tensor, Tensor]:
    """Which units (outputs) and which input features of a layer have an effective connection.

    `groups` are those of a custom convolution.
    """
    if effective.dim() < 2:
        return effective.flatten(), effective.flatten()
    # not for a parameter from which a weight is computed, or an additional one
    of_weight = isinstance(module, (ConvBase, *TABLES)) and module.weight.shape == effective.shape
    inputs_first = of_weight and getattr(module, "transposed", True)
    groups = module.groups if of_weight and isinstance(module, ConvBase) else groups
    pairs = effective.flatten(2).any(2) if effective.dim() > 2 else effective
    grouped = pairs.unflatten(0, (groups, -1)).numpy()  # several times faster than torch
    first, second = (torch.from_numpy(grouped.any(dim).reshape(-1)) for dim in (2, 1))
    return (second, first) if inputs_first else (first, second)


def first_cut(reach: Reach) -> str | None:
    """The first of the layers at the end of a network whose outputs do not depend on the input."""
    cut = None
    for product in reach.products:
        if product.reached:
            cut = None
        elif cut is None:
            cut = ", ".join(sorted(product.names))
    return cut


def severed(reach: Reach, carried: list[Tensor | None]) -> tuple[str, ...]:
    """Branches that carry nothing into a sum that depends on the input."""
    names: dict[str, None] = {}
    for sum_, wanted in zip(reach.sums, carried, strict=False):
        if wanted is None or not bool((wanted * sum_.result).any()):
            continue
        for branch, source in zip(sum_.branches, sum_.sources, strict=True):
            if branch is not None and not bool((branch * wanted).any()):
                names[f"{source or 'an operation of the network'} into {sum_.module or 'the network'}"] = None
    return tuple(names)
