"""What a sweep prunes: what it finds, and what a user chooses."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pai_bench as pb
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.trial import Trial
from pai_bench.report.page import write_report
from pai_bench.results import Store
from pai_bench.scoring import prunable_parameters
from pai_bench.scoring.prunable import prunable_names
from pai_bench.support.errors import UserError
from tests.scoring.test_prunable import Own, X, Y


def net(shape: tuple[int, ...], classes: int) -> nn.Module:
    inputs = torch.Size(shape).numel()

    def hidden(m: Any, x: Tensor) -> Tensor:
        return m.last(torch.relu(x.flatten(1) @ m.w))  # type: ignore[no-any-return]

    model = Own(hidden, w=(inputs, 16))
    del model.fc
    model.last = nn.Linear(16, classes)
    return model


def trial(**changes: Any) -> Trial:
    keys: dict[str, Any] = {"criteria": ["random"], "sparsities": [0.5], "seeds": 1, "epochs": 0, "models": ["lenet"]}
    return resolve(pb.Sweep(**keys | changes)).trials[1]


def test_a_sweep_prunes_what_it_finds_and_says_so(tmp_path: Any) -> None:
    assert trial(models=[net]).model.traced == ("w",)
    frame = pb.run(pb.Sweep(models=[net], criteria=["snip"], sparsities=[0.9], seeds=1, epochs=1), out=tmp_path)
    pruned = frame[frame.criterion == "snip"].iloc[0]
    assert pruned.parameters == 784 * 16 + 160
    assert pruned.parameters_not_prunable == 10
    assert pruned.prunable == "with 1 further weights"
    assert pruned.connected


def test_a_report_names_what_is_not_scored(tmp_path: Any) -> None:
    def low_rank(shape: tuple[int, ...], classes: int) -> nn.Module:
        inputs = torch.Size(shape).numel()

        def forward(m: Any, x: Tensor) -> Tensor:
            return m.last(F.linear(x.flatten(1), m.a @ m.b))  # type: ignore[no-any-return]

        model = Own(forward, a=(8, 2), b=(2, inputs))
        del model.fc
        model.last = nn.Linear(8, classes)
        return model

    keys: dict[str, Any] = {"models": [low_rank], "criteria": ["random"], "sparsities": [0.5], "seeds": 1, "epochs": 0}
    pb.run(pb.Sweep(**keys), out=tmp_path)
    text = write_report(Store(tmp_path), tmp_path / "report.md").read_text()
    assert "not scored, though the network may compute weights from them: a, b." in text
    chosen_ones = pb.run(pb.Sweep(**keys, prunable="a,b,last.weight"), out=tmp_path)
    assert chosen_ones.iloc[1].parameters == 16 + 2 * 784 + 80
    assert not chosen_ones.iloc[1].not_scored


def test_identities_say_what_was_chosen_and_nothing_else() -> None:
    plain = trial()
    names = ("prunable", "keep_first", "keep_last", "traced")
    assert not set(names) & plain.configuration().keys()
    for changes in ({"prunable": "fc*"}, {"keep_first": True}, {"keep_last": True}):
        changed = trial(**changes)
        assert changed.identity != plain.identity
        assert changed.configuration() == plain.configuration() | changes
    dense = resolve(pb.Sweep(criteria=["random"], sparsities=[0.5], seeds=1, keep_first=True)).trials[0]
    assert dense.identity == resolve(pb.Sweep(criteria=["random"], sparsities=[0.5], seeds=1)).trials[0].identity


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["a.weight", "b.weight", "c.weight"]),
        ({"keep_first": True}, ["b.weight", "c.weight"]),
        ({"keep_last": True}, ["a.weight", "b.weight"]),
        ({"keep_first": True, "keep_last": True, "biases": True}, ["b.weight", "b.bias"]),
        ({"patterns": "[ab].*"}, ["a.weight", "b.weight"]),
        ({"patterns": "c*, a*", "keep_last": True}, ["a.weight"]),
        ({"patterns": "norm.weight,c.*"}, ["norm.weight", "c.weight"]),
    ],
)
def test_choices(options: Any, names: list[str]) -> None:
    model = nn.Sequential()
    for name in "abc":
        model.add_module(name, nn.Linear(4, 4))
        if name == "a":
            model.add_module("norm", nn.LayerNorm(4))
    assert prunable_names(model, (), **options) == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": "fcc*"}, "unknown prunable parameter of Sequential 'fcc*'"),
        ({"patterns": "0.bias*"}, "unknown prunable parameter"),
        ({"keep_first": True}, "nothing of Sequential is left to prune"),
    ],
)
def test_choices_that_leave_nothing(options: Any, message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    assert list(prunable_parameters(model)) == ["0.weight"]
    with pytest.raises(UserError) as error:
        prunable_names(model, (), **options)
    assert message in str(error.value)


def test_a_first_layer_kept_whole_is_whole(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sweep = pb.Sweep(criteria=["snip"], sparsities=[0.9], seeds=1, epochs=0, keep_first=True)
    row = pb.run(sweep, out=tmp_path).iloc[1]
    dense = pb.create_model("lenet", input_shape=(1, 28, 28), num_classes=10)
    first, *others = prunable_parameters(dense).values()
    assert row.parameters == sum(weight.numel() for weight in others)
    assert row.parameters_not_prunable == sum(p.numel() for p in dense.parameters()) - row.parameters
    assert row.prunable == "without the first layer"
    assert first.numel() > 0


@pytest.mark.parametrize("wrong", [3, [nn.Linear(1, 1)], ["0.weight", 1]])
def test_what_is_no_choice_of_parameters(wrong: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(UserError, match="prunable is names of parameters, or a predicate"):
        pb.prune(model, (X, Y), prunable=wrong)
