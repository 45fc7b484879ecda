"""Functions in a network that hold parts of it: a copy is scored by its own weights, not by those of the original."""

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.networks.private_copy import copied

BATCH = pb.Batch(torch.linspace(-1, 1, 24).reshape(6, 4), torch.arange(6) % 3)


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


class Doubled(nn.Linear):
    """What the functions below make of a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def by_class(model: Any) -> None:
    model[0].__class__ = Doubled


def by_old_method(model: Any) -> None:
    old = model[0].forward
    model[0].forward = lambda x: 2 * old(x)


def by_two_functions(model: Any) -> None:
    by_old_method(model)
    old = model[0].forward
    model[0].forward = lambda x: 0.5 * old(x) + old(x) / 2


def by_default(model: Any) -> None:
    model[0].forward = lambda x, layer=model[0]: 2 * F.linear(x, layer.weight, layer.bias)


def by_keyword(model: Any) -> None:
    def run(x: Tensor, *, parts: tuple[Tensor, Tensor] = (model[0].weight, model[0].bias)) -> Tensor:
        return 2 * F.linear(x, parts[0], parts[1])

    model[0].forward = run


def by_list(model: Any) -> None:
    parts, names = list(model[0].parameters()), {"layer": model[0]}
    model[0].forward = lambda x: F.linear(x, *parts) + F.linear(x, names["layer"].weight, names["layer"].bias)


def by_partial(model: Any) -> None:
    old = model[0].forward
    model[0].forward = functools.partial(lambda factor, x: factor * old(x), 2)


def by_method(model: Any) -> None:
    model[0].forward = types.MethodType(lambda layer, x: 2 * F.linear(x, layer.weight, layer.bias), model[0])


def by_hook(model: Any) -> None:
    model[0].register_forward_hook(
        lambda _m, inputs, output: output + F.linear(inputs[0], model[0].weight, model[0].bias)
    )


def by_attribute(model: Any) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer = model[0]
            self.runs = [lambda x: layer(x), lambda x: self.layer(x)]

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.runs[0](x) + self.runs[1](x)
            return output

    model[0] = Holder()


NOTEBOOK = """
def half(x):
    return fully(x, model[0].weight, model[0].bias)

def run(x, depth=2):
    return run(x, depth - 1) if depth else half(x) + sum([old(x) for _ in [1]])
"""


def by_global_names(model: Any) -> None:
    names = {"old": model[0].forward, "model": model, "fully": F.linear}
    exec(NOTEBOOK, names)
    model[0].forward = names["run"]


CHANGES = (
    by_global_names,
    by_old_method,
    by_default,
    by_keyword,
    by_list,
    by_partial,
    by_method,
    by_hook,
    by_attribute,
)


@pytest.mark.parametrize("criterion", ["snip", "synflow", "grasp:score_init=redrawn", "snip:score_init=vs-h"])
@pytest.mark.parametrize("change", [*CHANGES, by_two_functions])
def test_functions_that_hold_a_layer_are_scored_with_the_layer(change: Callable[[Any], None], criterion: str) -> None:
    expected, model = layers(), layers()
    by_class(expected)
    change(model)
    if change is by_two_functions:
        expected, other = layers(), expected
        expected.load_state_dict(other.state_dict())
        by_class(expected)
    found, wanted = (pb.get_criterion(criterion).score(one, BATCH) for one in (model, expected))
    for one, other_one in zip(found.values(), wanted.values(), strict=True):
        torch.testing.assert_close(one, other_one)
    masks = [pb.prune(one, BATCH, criterion, 0.5, schedule="exponential:steps=3") for one in (model, expected)]
    assert all(torch.equal(a, b) for a, b in zip(masks[0].values(), masks[1].values(), strict=True))


def test_the_function_of_the_original_stays_as_it_is_and_shares_its_counter() -> None:
    model: Any = layers()
    old, count = model[0].forward, 0

    def run(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        output: Tensor = old(x)
        return output

    run.note = "mine"  # type: ignore[attr-defined]
    model[0].forward = run
    twin: Any = copied(model)
    assert model[0].forward is run
    assert (twin[0].forward.note, twin[0].forward.__name__) == ("mine", "run")
    twin(BATCH.inputs)
    assert count == 1
    with torch.no_grad():
        twin[0].weight.zero_()
    assert not torch.equal(twin(BATCH.inputs), model(BATCH.inputs))


@pytest.mark.parametrize("head", ["def run(x, layer=model[0]):", "def run(x):\n layer = model[0]"])
def test_global_names_of_the_original_stay_as_they_are(head: str) -> None:
    model: Any = layers()
    names: dict[str, Any] = {"model": model, "old": model[0].forward}
    exec(f"{head}\n return run if x is None else old(x) + layer(x)", names)
    model[0].forward = names["run"]
    before = dict(names)
    twin: Any = copied(model)
    assert names == before
    assert twin[0].forward(None) is twin[0].forward
    assert twin[0].forward is not names["run"]


def test_functions_that_hold_themselves_or_nothing_of_the_network_are_left() -> None:
    model: Any = layers()

    def deep(x: Tensor, depth: int = 2) -> Tensor:
        return deep(x, depth - 1) if depth else x

    def unbound() -> Any:
        return later

    model.of = [deep, torch.relu]
    model.unbound = unbound
    twin: Any = copied(model)
    assert twin.of == model.of
    assert twin.unbound is unbound
    later = None


class Itself(nn.Linear):
    def __deepcopy__(self, memo: Any) -> "Itself":
        return self


def test_a_layer_that_gives_itself_as_its_copy_is_refused_and_left_alone() -> None:
    model: Any = nn.Sequential(Itself(4, 5), nn.Linear(5, 3))
    by_old_method(model)
    before = model[0].forward
    for network, name in ((model, "0"), (model[0], "")):
        with pytest.raises(pb.UserError, match=rf"snip: '{name}', a Itself, gives itself when it is copied"):
            pb.prune(network, pb.Batch(BATCH.inputs, BATCH.targets), "snip", 0.5)
        assert model[0].forward is before


class Copied(nn.Linear):
    """Says itself how it is copied."""

    def __deepcopy__(self, memo: Any) -> "Copied":
        found = Copied(self.in_features, self.out_features)
        found.load_state_dict(self.state_dict())
        memo[id(self)] = found
        return found


@pytest.mark.parametrize("change", CHANGES)
def test_functions_beside_a_layer_that_is_copied_in_its_own_way(change: Callable[[Any], None]) -> None:
    model: Any = layers()
    model[2] = Copied(5, 3)
    change(model)
    twin: Any = copied(model)
    expected = model(BATCH.inputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(BATCH.inputs), expected)
    assert not model(BATCH.inputs).any()
