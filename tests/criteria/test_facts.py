"""What is known of every built-in criterion beside its formula: defaults, and choices of its authors."""

import importlib
import pkgutil
from dataclasses import dataclass

import pai_criteria

import pai_bench as pb
from pai_bench.scoring import Criterion
from tests.experiment.test_sweep import builtin


def test_every_criterion_of_every_file_is_registered() -> None:
    modules = [importlib.import_module(f"pai_criteria.{i.name}") for i in pkgutil.walk_packages(pai_criteria.__path__)]
    defined = [one for module in modules for one in vars(module).values() if isinstance(one, type)]
    names = {one.name for one in defined if issubclass(one, Criterion) and one.__module__.startswith("pai_criteria.")}
    assert names == set(builtin())


def test_published_defaults() -> None:
    """Schedule, scope and batch norm of every criterion, as the papers and their codes have them."""
    criteria = {name: pb.get_criterion(name) for name in builtin()}
    assert {name: (str(one.schedule), one.scope, one.bn) for name, one in criteria.items()} == {
        "3sp": ("one-shot", "global", "eval"),
        "cnip": ("one-shot", "global", "eval"),
        "cnip-it": ("halving:steps=5", "global", "eval"),
        "er": ("one-shot", "quota", "eval"),
        "erk": ("one-shot", "quota", "eval"),
        "force": ("exponential:steps=60:returns=true", "global", "train"),
        "grasp": ("one-shot", "global", "train"),
        "gmp": ("one-shot", "layerwise", "eval"),
        "group": ("one-shot", "global", "eval"),
        "imp": ("one-shot", "global", "eval"),
        "iter-snip": ("exponential:steps=60", "global", "train"),
        "magnitude": ("one-shot", "global", "eval"),
        "random": ("one-shot", "global", "eval"),
        "rigl": ("one-shot", "quota", "eval"),
        "set": ("one-shot", "quota", "eval"),
        "snap": ("one-shot", "global", "eval"),
        "snap-it": ("halving:steps=5", "global", "eval"),
        "snip": ("one-shot", "global", "eval"),
        "snip-it": ("halving:steps=5", "global", "eval"),
        "structured-random": ("one-shot", "global", "eval"),
        "synflow": ("exponential:steps=100", "global", "eval"),
    }
    assert pb.get_criterion("grasp").temperature == 200  # type: ignore[attr-defined]
    without_data = {name for name, one in criteria.items() if not one.uses_data}
    assert without_data == {
        *("er", "erk", "gmp", "imp", "magnitude", "random", "rigl", "set", "structured-random", "synflow")
    }


@dataclass(frozen=True)
class Not:
    """All values but these."""

    values: tuple[object, ...]


def test_what_the_codes_of_the_authors_do() -> None:
    """For each option that its authors' code decides, the values that do the same; `Not` of those that do not."""
    choices = {
        name: {c.option: c.values or Not(c.otherwise) for c in pb.get_criterion(name).authors_choices}
        for name in builtin()
    }
    assert {name: of for name, of in choices.items() if of} == {
        "cnip": {"count": ("published",), "score_batches": (5,), "loss": ("nll",)},
        "cnip-it": {"count": ("published",), "score_batches": (5,), "loss": ("nll",)},
        "force": {"loss": ("nll",)},
        "grasp": {"score_init": Not(("trained",)), "halves": (True,)},
        "snap": {"score_batches": (5,), "loss": ("nll",)},
        "snap-it": {"score_batches": (5,), "loss": ("nll",)},
        "snip": {"score_sampling": ("random",), "score_init": Not(("trained",)), "biases": (True,)},
        "snip-it": {"score_batches": (5,), "loss": ("nll",)},
        "synflow": {"ties": ("remove",)},
    }
