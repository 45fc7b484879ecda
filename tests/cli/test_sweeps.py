"""The verb `run`: what is refused before data are read, and what is printed of plans, costs and results."""

from argparse import Namespace
from pathlib import Path

import pytest

from pai_bench.cli import sweeps
from pai_bench.cli.console import make_console
from pai_bench.cli.entry import main
from pai_bench.cli.sweeps import print_estimate, print_plan, print_tables, run_or_plan
from pai_bench.execution import ExecutionPlan
from pai_bench.execution.estimate import Estimate
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.sweep import Sweep
from tests.experiment.test_runner import sweep
from tests.report.records import record


def test_an_unknown_backend_is_named_before_data_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--backend", "cluster", "--data", "nothing"]) == 2
    assert "unknown backend 'cluster'" in capsys.readouterr().err


def test_processes_that_have_inspected_networks_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of the sweep."""
    closed: list[object] = []
    monkeypatch.setattr("pai_bench.execution.probe.prepared", lambda _sweep: "the catalog")
    monkeypatch.setattr("pai_bench.execution.probe.close", closed.extend)

    def interrupted(*_arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "run_or_plan", interrupted)
    monkeypatch.setattr(sweeps, "print_interruption", lambda *_arguments: None)
    assert main(["run", "--criteria", "snip"]) == 130
    assert closed == ["the catalog"]


@pytest.mark.parametrize(
    ("criteria", "smaller"),
    [
        (["snip"], []),
        (["snap", "snip"], ["less, as 1 of the trials train smaller networks, which are counted as the dense one"]),
    ],
)
def test_what_trials_will_cost(
    criteria: list[str], smaller: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = Estimate(100.0, 20.0, 5.5, 3 * 2**20, 2 * 2**30, ExecutionPlan(workers=2), ("a step of net: no",))
    monkeypatch.setattr("pai_bench.execution.estimate.estimate", lambda *_arguments: cost)
    catalog = resolve(sweep(criteria=criteria, seeds=1))
    assert print_estimate(make_console(), catalog, catalog.trials, "auto") == 125.5
    assert capsys.readouterr().out.splitlines() == [
        "about 2:06 min on this machine (training 1:40 min, evaluation 20 s, scoring 5.5 s), " + str(cost.plan),
        *smaller,
        "about 3 MiB of memory, and 2 GiB in the results folder",
        "not measured: a step of net: no",
    ]


@pytest.mark.parametrize(("outs", "said"), [(("r", "s"), "about 60 s for all 2 grids"), (("r",), "")])
def test_the_cost_of_several_grids_is_added_up(
    outs: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweeps, "print_estimate", lambda *_arguments: 30.0)
    catalog = resolve(sweep(seeds=1))
    arguments = Namespace(dry_run=True, retry_failed=False, backend="auto", shard=None)
    assert run_or_plan(make_console(), [(catalog, out) for out in outs], arguments) == 0
    assert ("grids" in (out := capsys.readouterr().out)) is bool(said)
    assert said in out


@pytest.mark.parametrize(("effective", "said"), [(None, False), (0.0, False), (0.5, True)])
def test_effective_sparsity_is_explained_where_it_is_shown(
    effective: float | None, said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [record("snip", 0.5, seed, 0.9, effective_sparsity=effective) for seed in (0, 1)]
    records.append(record(None, 0.0, 0, 0.9, effective_sparsity=0.0))
    print_tables(make_console(), records)
    out = capsys.readouterr().out
    assert out.startswith("net on digits: test accuracy in %, mean ± standard deviation, 2 seeds\n")
    assert ("in brackets: effective sparsity, of weights removed or on no path" in out) is said


def test_failed_trials_are_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = Namespace(dry_run=False, shard=None)
    for failed, code, said in ((0, 0, ""), (1, 1, "1 trial failed; --retry-failed runs them again\n")):
        monkeypatch.setattr(sweeps, "run_grids", lambda *_arguments, failed=failed: failed)
        assert run_or_plan(make_console(), [], arguments) == code
        assert capsys.readouterr().out == said


def test_without_flags_there_is_one_usual_sweep() -> None:
    """Also of verbs that have no ``--quick``."""
    assert sweeps.sweeps(Namespace(recipe=None)) == [(Sweep(), "results")]


def test_a_folder_without_trials_is_planned_as_a_new_one() -> None:
    Path("r/trials").mkdir(parents=True)
    catalog = resolve(sweep(seeds=1))
    assert print_plan(make_console(), catalog, "r", retry_failed=False) == catalog.trials
