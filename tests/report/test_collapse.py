"""The part of a report about where networks fall apart: its tables by hand."""

import dataclasses
from pathlib import Path
from typing import Any

from pai_bench.report import collapse as report
from pai_bench.results import Collapse, MaskEffect
from tests.report.test_figures_of_masks import collapse


def tried(sparsity: float, effective: float | None, connected: bool = True, full: bool = True) -> MaskEffect:
    return MaskEffect(
        sparsity=sparsity,
        connected=connected,
        effective_sparsity=effective,
        densities=(0.5, 0.5),
        effective=(0.5, 0.5) if full else None,
    )


def one(name: str, seed: int = 0, scope: str = "global", options: Any = (), **changes: Any) -> Collapse:
    """A search of a seed; `schedule` and options of the criterion as given."""
    choice = {"name": name, "schedule": changes.pop("schedule", "one-shot"), "revision": 1, "options": list(options)}
    found = collapse(name, **changes)
    return dataclasses.replace(found, trial={**found.trial, "criterion": choice, "seed": seed, "scope": scope})


def group() -> list[Collapse]:
    """Two seeds of snip and of random, one of er that is never connected."""
    grid = [
        (tried(0.5, 0.6), tried(0.75, 0.8), tried(0.9, 1.0, False)),
        (tried(0.5, 0.7), tried(0.75, 0.9), tried(0.9, 0.95), tried(0.99, 1.0, False)),
    ]
    layers = [{"a.weight": 0.98, "b.weight": 0.8}, {"a.weight": 0.98, "b.weight": 0.9}]
    ends: list[dict[str, Any]] = [{"connected_until": 0.8}, {"connected_until": 0.9}]
    snip = [one("snip", i, layers_until=layers[i], tried=grid[i], **ends[i]) for i in (1, 0)]
    cut = (tried(0.5, 1.0, False), tried(0.75, 1.0, False, full=False), tried(0.9, 1.0, False))
    other = {"a.weight": 0.5, "b.weight": 0.6}
    never: dict[str, Any] = {"connected_until": None, "first_cut": "a.weight", "layers_until": other}
    return [one("er", tried=cut, **never), *snip, *(one("random", i, tried=grid[1], first_cut=None) for i in (0, 1))]


def test_tables() -> None:
    (found,) = report.groups(group())
    head, *rows = [" | ".join(row) for row in report.table(found)]
    assert head == (
        "criterion | schedule | connected until | compression | weights left | cut first in | empties first | at"
    )
    # 1 / 0.2 and 1 / 0.1; 10 and 5 of 50 weights
    span = "0.850 (0.800 to 0.900)"
    assert rows == [
        f"snip | one-shot | {span} | 7.5 (5 to 10) | 7.5 (5 to 10) | b.weight | b.weight | {span}",
        "random | one-shot | 0.800 | 5 | 10 | – | b.weight | 0.800",
        "er | one-shot | never |  |  | a.weight | a.weight | 0.500",
    ]
    # at 0.75, of er only the connection is known; at 0.99 not all were tried
    assert report.effective_table(found) == [
        ["criterion", "0.500", "0.900"],
        ["snip", "0.650", "0.9750 (1 ‡)"],
        ["random", "0.700", "0.9500"],
        ["er", "1 ‡", "1 ‡"],
    ]
    assert report.layer_table(found) == [
        ["layer", "snip", "random", "er"],
        ["a.weight", "0.9800", "0.9800", "0.500"],
        ["b.weight", "0.850", "0.800", "0.600"],
    ]


def test_uses_of_one_criterion_are_told_apart_by_what_differs() -> None:
    uses = [
        one("snip", options=[["bn", "eval"]], connected_until=0.9),
        one("snip", options=[["bn", "train"]], connected_until=0.8),
        one("snip", options=[["bn", "train"]], schedule="linear:steps=3", connected_until=0.7),
        one("er", scope="quota", connected_until=None),
        one("erk", scope="global", connected_until=0.6),
        one("erk", scope="layerwise", connected_until=0.5),
    ]
    assert list(report.by_criterion(uses)) == [
        "snip, one-shot, bn eval", "snip, one-shot, bn train", "snip, linear:steps=3, bn train",
        "erk, global", "erk, layerwise", "er",
    ]  # fmt: skip


def test_settings_in_another_order_are_no_other_use() -> None:
    first = one("snip", options=[["bn", "eval"]])
    trial = dict(reversed([*first.trial.items()])) | {"seed": 1}
    other = dataclasses.replace(first, trial=trial | {"criterion": dict(reversed([*trial["criterion"].items()]))})
    (group,) = report.groups([first, other])
    assert [*report.by_criterion(group)] == ["snip"]


def test_what_cannot_be_compared_stands_in_another_group() -> None:
    first = collapse("snip")
    other = dataclasses.replace(first, trial={**first.trial, "score_batch": 11})
    layers = collapse("snip", layers_until={"c.weight": 0.9})
    seed = dataclasses.replace(first, trial={**first.trial, "seed": 1})
    found = report.groups([seed, first, other, collapse("er"), collapse("snip", size=51), layers])
    assert sorted(map(len, found)) == [1, 1, 1, 3]
    (same,) = (group for group in found if len(group) == 3)
    assert [(c.trial["criterion"]["name"], c.trial["seed"]) for c in same] == [("er", 0), ("snip", 0), ("snip", 1)]


def test_the_section(drawings: list[Any]) -> None:
    rows = [dataclasses.replace(c, trial={**c.trial, "data": "a*b"}, size=12345) for c in group()]
    parts = report.section(rows, Path(), lambda title: Path(f"{title.split()[0]}.svg"))
    assert parts[:4] == [
        "## Where networks fall apart", report.CAPTION, r"### net on a\*b", "12,345 prunable weights, seeds 0, 1."
    ]  # fmt: skip
    assert parts[5:8] == [
        r"![Effective against direct compression, net on a\*b](effective.svg)",
        r"![Density of each layer along sparsity, net on a\*b](layers.svg)",
        "Effective sparsity at the sparsities tried by all:",
    ]
    assert parts[9] == "Highest sparsity at which a layer keeps a connection:"
    heads = [parts[i].splitlines()[0] for i in (4, 8, 10)]
    assert heads[0].startswith("| criterion | schedule | connected until |")
    assert heads[1:] == ["| criterion | 0.500 | 0.900 |", "| layer | snip | random | er |"]
    assert len(parts) == 11
    assert [drawing.axes[0].get_title() for drawing in drawings] == ["net on a*b", "snip"]
