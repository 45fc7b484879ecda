"""The stages that train: the budget, the seeds, what is kept, and how a later run goes on."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import cifar, engine, snip_table, sweeps
from benchmarks.gpu.archive import Archive, unpack
from benchmarks.gpu.ledger import Ledger
from benchmarks.gpu.stage import Context, Finding, OutOfTimeError, work
from benchmarks.gpu.sweeps import Forecast
from pai_bench.results import BenchmarkResult, Record, Store


def context(tmp_path: Path, stage: str, *, rehearse: bool = True, seconds: float = 1000.0) -> Context:
    """What a stage is given."""
    ledger = Ledger(Archive(tmp_path / f"{stage}.tar"))
    origin = {"commit": "abc", "dirty": False, "command": "run"}
    return Context(stage, torch.device("cpu"), rehearse, time.monotonic() + seconds, ledger, origin, run="1")


def states(given: Context) -> list[str]:
    """What became of the pieces."""
    return [entry.status for entry in given.ledger.entries.values()]


@pytest.mark.parametrize(
    ("left", "epochs"),
    [(1e6, 160), (1000.0, 42), (300.0, 11), (100.0, 2)],  # (0.85 * left / 3 - 15) * 160 / 1000 epochs
)
def test_the_budget_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float, epochs: int) -> None:
    given = context(tmp_path, "cifar", rehearse=False, seconds=left)
    monkeypatch.setattr(cifar, "sweep_of", lambda *_: None)
    fixed = sweeps.FIXED + 10 * sweeps.EACH
    whole = Forecast(training=1000.0, scoring=15.0 - fixed, trials=10, together=8)
    monkeypatch.setattr(sweeps, "forecast", lambda *_: whole)
    cifar.choose_budget(given)
    state = Ledger(Archive(given.ledger.archive.path)).state  # for a later run
    assert state[cifar.BUDGET] == pytest.approx(epochs / 160)
    assert state[cifar.SECONDS] == pytest.approx(15 + 1000 * epochs / 160)
    assert state[cifar.TOGETHER] == 10  # 8 of 10 were best, so that all will be


def test_no_budget_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = context(tmp_path, "cifar", rehearse=False, seconds=60.0)
    monkeypatch.setattr(cifar, "sweep_of", lambda *_: None)
    monkeypatch.setattr(sweeps, "forecast", lambda *_: Forecast(1000.0, 10.0, 10, 8))
    with pytest.raises(OutOfTimeError):
        cifar.choose_budget(given)
    assert not given.ledger.state


@pytest.mark.slow
def test_a_later_run_goes_on_with_the_same_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = context(tmp_path, "cifar")
    pieces = list(cifar.pieces(first))
    run = sweeps.run

    def short(given: Context, sweep: Any) -> Any:
        if sweep.seeds > 1:
            raise OutOfTimeError
        return run(given, sweep)

    monkeypatch.setattr(sweeps, "run", short)
    work(first, pieces)
    assert states(first) == ["passed", "missing"]
    assert len(sweeps.stored(first)) == 3
    monkeypatch.setattr(sweeps, "run", run)
    later = context(tmp_path, "cifar")
    monkeypatch.setattr(cifar, "choose_budget", lambda _context: pytest.fail("the budget was chosen before"))
    began = []
    monkeypatch.setattr(sweeps.Keeper, "on_start", lambda _self, trial: began.append(trial.seed))
    work(later, list(cifar.pieces(later)))
    assert states(later) == ["passed", "passed"]
    assert began == [1, 1, 1]
    unpack(tmp_path, tmp_path / "results")
    store = Store(tmp_path / "results/cifar")
    records = list(store)
    assert len(records) == 6
    assert {record.pruning.mask for record in records} == {None}
    assert {record.provenance.commit for record in records} == {"abc"}
    assert {record.trial["protocol"]["budget"] for record in records} == {1 / 160}
    results = {one.name: one for one in store.read_all(BenchmarkResult)}
    assert results["seed 1"].values["trials"] == 6
    assert results["seed 1"].values["epochs"] == 1


def test_a_sweep_ends_with_the_time(tmp_path: Path) -> None:
    given = context(tmp_path, "cifar")
    sweep = dataclasses.replace(cifar.sweep_of(given, 1), budget=1 / 160, lanes=1)
    given.until = time.monotonic()
    with pytest.raises(OutOfTimeError):
        sweeps.run(given, sweep)


def test_a_trial_that_fails_is_told(tmp_path: Path) -> None:
    given = context(tmp_path, "cifar")
    sweep = dataclasses.replace(cifar.sweep_of(given, 1), budget=1 / 160, lanes=1, learning_rate=1e30)
    finding = sweeps.run(given, sweep)
    assert finding.values["failed trials"] == 3
    assert "DivergedError" in (finding.problem or "")
    texts = given.ledger.archive.texts
    assert [Record.from_json(text).status for name, text in texts.items() if name.startswith("trials/")] == [
        "failed"
    ] * 3


def test_the_grids_are_those_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "data_set", lambda name: engine.random_images((1, 28, 28), 2000, name=name))
    given = context(tmp_path, "snip-table-1", rehearse=False)
    for network, protocol in snip_table.GRIDS:
        sweep = snip_table.sweep_of(given, network, protocol, 20)
        assert (sweep.models, sweep.protocol, sweep.seeds) == ((network,), protocol, 20)
        assert sweep.criteria == ("snip", "snip:score-init=redrawn")
        assert len(engine.trials(sweep)) == 100
        assert sweep.budget == 1


def test_as_many_seeds_as_there_is_time_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snip_table, "sweep_of", lambda _c, _n, _p, seeds: snip_sweep(seeds))
    monkeypatch.setattr(engine, "trials", lambda sweep: [None] * 5 * sweep.seeds)
    ran = []

    def run(_context: Context, sweep: Any) -> Any:
        ran.append((sweep.seeds, sweep.lanes))
        return Finding({"failed trials": 0}, {"failed trials": 0})

    def forecast(trials: int) -> Any:
        fixed = sweeps.FIXED + sweeps.EACH * trials
        return lambda *_: Forecast(trials * 2.0 - fixed + sweeps.FIXED, 0.0, trials, 64)  # 10 s for a seed

    monkeypatch.setattr(sweeps, "run", run)
    monkeypatch.setattr(sweeps, "forecast", forecast(100))
    given = context(tmp_path, "snip-table-1", rehearse=False, seconds=150.0)
    with pytest.raises(OutOfTimeError):  # ten at once: 115 s
        snip_table.table(given, "n", "p")()
    monkeypatch.setattr(sweeps, "forecast", forecast(50))
    finding = snip_table.table(given, "n", "p")()  # the other ten
    assert ran == [(10, 50), (20, 50)]
    assert finding.values["seeds"] == 20
    given.until = time.monotonic() + 10
    with pytest.raises(OutOfTimeError):
        snip_table.table(given, "n", "p")()
    assert len(ran) == 2


def snip_sweep(seeds: int) -> Any:
    """Something that has seeds and lanes."""
    return dataclasses.make_dataclass("Made", [("seeds", int), ("lanes", int, 1)])(seeds)


def test_the_rehearsed_table(tmp_path: Path) -> None:
    given = context(tmp_path, "snip-table-1")
    work(given, list(snip_table.pieces(given)))
    assert states(given) == ["passed"]
    (text,) = [text for name, text in given.ledger.archive.texts.items() if name.startswith("benchmarks/")]
    values = json.loads(text)["values"]
    assert (values["trials"], values["failed trials"], values["seeds"]) == (10, 0, 2)
    assert values["seconds"] > 0
    work(given, list(snip_table.pieces(given)))  # all is there
    assert states(given) == ["passed"]
