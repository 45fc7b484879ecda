"""What is handed from room to room does not change on the way."""

import dataclasses
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import pai_criteria

import pai_bench
from pai_bench.experiment.sweep import Sweep
from pai_bench.experiment.trial import Trial
from pai_bench.graph.connectivity import Connectivity, LayerConnectivity
from pai_bench.pruning.options import PruningOptions
from pai_bench.report.summary import Comparison
from pai_bench.scoring.options import CriterionOptions
from pai_bench.training.protocol import Protocol

STATEFUL = {"Catalog", "ChangeLog", "Group", "Measurement", "Operands", "Registry", "Search", "Verification", "Worker"}
"""Dataclasses that are filled while something is done; another ``Search`` is a value."""

APART = {"pai_bench.__main__", "pai_bench.registry"}
"""Modules that run a command, or warn, when they are imported."""


def dataclasses_of(*packages: ModuleType) -> set[type[Any]]:
    """Those that their modules define."""
    return {
        kind
        for package in packages
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if info.name not in APART
        for kind in vars(importlib.import_module(info.name)).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == info.name
    }


def test_dataclasses_are_frozen() -> None:
    found = dataclasses_of(pai_bench, pai_criteria)
    assert len(found) > 100
    open_ones = sorted(kind.__name__ for kind in found if not kind.__dataclass_params__.frozen)
    assert open_ones == sorted(STATEFUL)


def test_what_is_stored_or_set_is_made_by_name() -> None:
    """Their fields are many and of few types, so that two in the wrong order would go unnoticed."""
    stored = {kind for kind in dataclasses_of(pai_bench) if kind.__module__.startswith("pai_bench.results.")}
    settings = {*Sweep.__mro__, *Trial.__mro__, *CriterionOptions.__mro__, Protocol, PruningOptions}
    by_name = {*stored, *filter(dataclasses.is_dataclass, settings), Connectivity, LayerConnectivity, Comparison}
    assert len(by_name) > 30
    for kind in by_name:
        found = {parameter.kind for parameter in inspect.signature(kind).parameters.values()}
        assert found == {inspect.Parameter.KEYWORD_ONLY}, kind
