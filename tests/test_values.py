"""What is handed from room to room does not change on the way."""

import dataclasses
import importlib
import pkgutil

import pai_criteria

import pai_bench

STATEFUL = {"Catalog", "Group", "Measurement", "Operands", "Registry", "Search", "Worker"}
"""Dataclasses that are filled while something is done; another ``Search`` is a value."""

APART = {"pai_bench.__main__", "pai_bench.registry"}
"""Modules that run a command, or warn, when they are imported."""


def test_dataclasses_are_frozen() -> None:
    found = {
        kind
        for package in (pai_bench, pai_criteria)
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if info.name not in APART
        for kind in vars(importlib.import_module(info.name)).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == info.name
    }
    assert len(found) > 100
    open_ones = sorted(kind.__name__ for kind in found if not kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]
    assert open_ones == sorted(STATEFUL)
