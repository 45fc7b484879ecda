"""Results in which one value is another: they are left out and named, or reported, and no document fails."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pai_bench.cli.entry import main
from pai_bench.results import BenchmarkResult, Collapse, Cost, MaskEffect, Provenance, SearchProvenance, Store
from tests.made import Choice
from tests.made import trial as made_trial
from tests.report.records import ENVIRONMENT, drawn, fields_of

OTHERS: list[Any] = [None, "x", -1, 3.5, [], 10**400, {}, float("inf"), 1, "\ud800", 0, 1e-320]
ORIGIN = Provenance(command="pai-bench", commit="abc", dirty=False)


@pytest.fixture(autouse=True)
def _figures_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What draws is called; layout and writing would take most of the time, and see none of the records."""
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: None)
    monkeypatch.setattr(Figure, "savefig", lambda _figure, file, **_: file.write(b""))


def trial() -> dict[str, Any]:
    """The configuration of a trial."""
    choice = Choice(name="snip", options=(("seed", 1),))
    return made_trial(data="d", criterion=choice, sparsity=0.5, score_batch=10).configuration()


def cost() -> Cost:
    """What scoring costs."""
    return Cost(
        trial=trial(), weights=1000, cuts=1, batch_norm="train", rounds=5, cold=False, seconds=0.3, iqr=0.01,
        peak_bytes=2**20, floor_seconds=0.2, floor_peak_bytes=2**20, prune_rounds=1, prune_cold=True,
        prune_seconds=0.6, prune_iqr=0.0, prune_peak_bytes=None, step_seconds=0.1, device="cpu",
        environment=ENVIRONMENT, provenance=ORIGIN, precision="fp32", memory_format="contiguous",
    )  # fmt: skip


def collapse() -> Collapse:
    """Where a network falls apart."""
    tried = (
        MaskEffect(sparsity=0.5, connected=True, effective_sparsity=0.6, densities=(0.5, 0.5), effective=(0.4, 0.4)),
        MaskEffect(sparsity=0.9, connected=False, effective_sparsity=1.0, densities=(0.2, 0.0), effective=(0.0, 0.0)),
    )
    return Collapse(
        trial=trial(), size=50, connected_until=0.8, cut_from=0.85, first_cut="b.weight", exact=False,
        layers_until={"a.weight": 0.95, "b.weight": 0.8}, tried=tried, seconds=1.0, environment=ENVIRONMENT,
        provenance=SearchProvenance(command="pai-bench", commit="abc", dirty=False),
    )  # fmt: skip


def benchmark() -> BenchmarkResult:
    """What a benchmark measured."""
    return BenchmarkResult(
        stage="speed", group="net", name="alone", version=1, status="passed", reason=None,
        values={"seconds": 0.5, "way": "alone"}, limits={"seconds": 1.0}, bar="seconds", seconds=1.0, device="cpu",
        environment=ENVIRONMENT, provenance=ORIGIN,
    )  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document, but of all entries of a list only the first."""
    entries: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value[:1]))
    for key, inside in entries:
        yield (key,)
        yield from ((key, *path) for path in places(inside))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of `document` with another value at `path`."""
    found = copy.deepcopy(document)
    *way, last = path
    inside = found
    for key in way:
        inside = inside[key]
    inside[last] = value
    return found


MADE: dict[str, Callable[[], Any]] = {
    "trial": lambda: drawn("snip", 0.5, 0, 0.9),
    "dense": lambda: drawn(None, 0.0, 0, 0.9),
    "cost": cost,
    "collapse": collapse,
    "benchmark": benchmark,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MADE)
def test_any_other_value(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of what is left out, reports can show no more than that: of twenty such results, one report is written."""
    store, result = Store("r", create=True), MADE[kind]()
    store.write(result)
    if kind in ("trial", "dense"):
        store.write(drawn("random", 0.5, 0, 0.8))
    path = store.path_of(type(result), result.identity)
    whole = fields_of(path.read_text())
    left_out = reported = 0
    for i, place in enumerate(places(whole)):
        for value in (OTHERS[i % len(OTHERS)], OTHERS[(i + 3) % len(OTHERS)]):
            path.write_text(json.dumps(changed(whole, place, value)))
            list((now := Store("r")).read_all(type(result)))
            left_out += (unreadable := bool(now.left_out))
            reported += not unreadable
            if unreadable and left_out % 20 != 1:
                continue
            if main(["report", "r", "-o", "x.md"]) == 0:
                assert (f"{path.name} could not be read" in Path("x.md").read_text()) is unreadable, (place, value)
            else:
                assert "no readable results" in capsys.readouterr().err, (place, value)
                assert (unreadable, kind in ("trial", "dense")) == (True, False)
    assert left_out
    assert reported
    assert "Traceback" not in capsys.readouterr().err
