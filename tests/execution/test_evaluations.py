"""Metrics of the networks of a sweep: at its end, later from kept networks, or after training them again."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import nn

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.evaluation import Dense
from pai_bench.execution import evaluations
from pai_bench.execution.evaluations import Evaluations, shares
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.results import Store
from pai_bench.results.claims import Claims
from pai_bench.support.registry import METRICS, metric
from tests.execution.evaluated import COMMAND, run
from tests.execution.sweeps import named

DURING = "when=during:delay=0:every=1"


METHODS = ["snip", "snap", f"snip-it:{DURING}", f"snap-it:{DURING}", "imp:p=0.5"]


def test_networks_are_those_that_were_trained() -> None:
    """Masked, smaller, pruned during training and in levels: their loss is that of the record."""
    keys: dict[str, Any] = {"criteria": METHODS, "epochs": 9, "train_fraction": 0.1}
    frame, seen = run(evaluate="loss,accuracy,gap", **keys)
    assert set(frame.status) == {"done"}
    pd.testing.assert_series_equal(frame["loss"], frame.test_loss, check_names=False, rtol=1e-6)
    assert frame.accuracy.tolist() == frame.test_accuracy.tolist()
    assert not Path("r/networks").exists()
    assert sorted(seen.evaluated) == sorted(frame.identity)
    assert seen.evaluated[0] == frame.identity[frame.criterion == "dense"].item()
    assert seen.announced == [len(frame)]
    again, seen = run(evaluate="loss,accuracy", **keys)
    assert (seen.trained, seen.evaluated) == ([], [])
    assert again["loss"].tolist() == frame["loss"].tolist()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_was_not_kept_is_trained_again_and_stays_as_it_is_stored(workers: int) -> None:
    run()
    stored = {path.name: path.read_bytes() for path in Path("r/trials").iterdir()}
    frame, seen = run(evaluate="loss", workers=workers)
    assert sorted(seen.trained) == sorted(seen.evaluated) == sorted(frame.identity)
    assert frame["loss"].tolist() == pytest.approx(frame.test_loss.tolist(), rel=1e-6)
    assert {path.name: path.read_bytes() for path in Path("r/trials").iterdir()} == stored
    assert not Path("r/networks").exists()
    assert "loss" not in run()[0]  # which has not asked for it
    assert "loss" in pb.read_results("r")


def test_networks_that_are_kept_stay_and_are_not_trained_again() -> None:
    """Also those that a later command, which keeps none, has evaluated."""
    frame, _ = run(keep_networks=True)
    kept = {path.stem: path.read_bytes() for path in Path("r/networks").glob("*.safetensors")}
    assert sorted(kept) == sorted(frame.identity)
    for metrics in ("gap", "loss"):
        _, seen = run(evaluate=metrics)
        assert (seen.trained, len(seen.evaluated)) == ([], 3)
        assert {path.stem: path.read_bytes() for path in Path("r/networks").glob("*.safetensors")} == kept
    assert "no command removes any" in Path("r/networks/kept.txt").read_text()
    Path("r/networks/kept.txt").unlink()
    run(evaluate="loss,accuracy")
    assert not Path("r/networks").exists()


@pytest.fixture
def dense_seen() -> Iterator[list[bool]]:
    """Metrics of another package, one of which is held against the dense network; whether there was one."""
    before, seen = dict(METRICS._plugins), list[bool]()

    class Distance:
        needs_dense = True

        def __call__(self, model: nn.Module, data: pb.DataSet, dense: Dense | None) -> float:
            seen.append(dense is not None)
            if dense is None:
                return 0.0
            pairs = zip(model.parameters(), dense.model.parameters(), strict=True)
            return float(sum((a - b).detach().square().sum() for a, b in pairs))

    metric("distance", source="a test")(Distance())

    @metric("breaks", source="a test")
    def breaks(model: nn.Module, data: pb.DataSet) -> float:
        if int(sum(p.count_nonzero() for p in model.parameters())) < 200_000:
            raise RuntimeError("a small network")
        return 1.0

    yield seen
    METRICS._plugins = before


def test_a_metric_is_given_the_dense_network_of_the_same_seed(dense_seen: list[bool]) -> None:
    frame, _ = run(seeds=2, evaluate="distance")
    assert dense_seen == [False, True, True, False, True, True]
    assert (frame.distance > 0).tolist() == (frame.criterion != "dense").tolist()
    of_dense = {seed: name for name, seed in zip(frame.identity, frame.seed, strict=True) if "-dense-" in name}
    for name, seed in zip(frame.identity, frame.seed, strict=True):
        found = Store("r").read_evaluation(name)
        assert found is not None
        assert found.metrics["distance"].dense == (None if "-dense-" in name else of_dense[seed])
    dense_seen.clear()
    run(seeds=2, criteria=["snip", "random", "magnitude"], evaluate="distance")  # one is new; the dense one is missing
    assert dense_seen == [True, True]


def test_sweeps_with_one_folder_share_the_dense_network(dense_seen: list[bool]) -> None:
    Path("r.toml").write_text(
        'evaluate = "distance"\nmodels = "lenet-300-100"\nsparsities = 0.75\nseeds = 1\nepochs = 1\nworkers = 1\n'
        'device = "cpu"\nout = "r"\n[[grid]]\ncriteria = "snip"\n[[grid]]\ncriteria = "random"\n'
    )
    assert main(["run", "r.toml"]) == 0
    assert dense_seen == [False, True, True]
    assert not Path("r/networks").exists()


@pytest.mark.usefixtures("dense_seen")
def test_a_metric_that_fails_takes_nothing_with_it(caplog: pytest.LogCaptureFixture) -> None:
    frame, _ = run(evaluate="breaks,gap")
    assert frame["gap.loss"].notna().all()
    assert frame.breaks.notna().tolist() == (frame.criterion == "dense").tolist()
    assert sum("metric breaks raises RuntimeError: a small network" in text for text in caplog.messages) == 2
    assert len(list(Path("r/networks").iterdir())) == 2  # for the next try
    _, seen = run(evaluate="breaks,gap")
    assert (seen.trained, len(seen.evaluated)) == ([], 2)


@pytest.mark.usefixtures("dense_seen")
def test_a_sweep_whose_metrics_fail_ends_with_the_exit_code_of_failures(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*COMMAND, "--criteria", "random", "--evaluate", "breaks"]
    assert main(arguments) == 1
    assert "1 network could not be evaluated; the same command tries again" in capsys.readouterr().out
    assert main([*arguments[:-1], "loss"]) == 0


def test_a_metric_of_another_version_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run(evaluate="loss", keep_networks=True)
    monkeypatch.setattr("pai_bench.evaluation.metrics.version_of", lambda _name: 2)
    _, seen = run(evaluate="loss", keep_networks=True)
    assert len(seen.evaluated) == 3
    _, seen = run(evaluate="loss", keep_networks=True)
    assert seen.evaluated == []


def test_failed_and_disconnected_trials_are_not_evaluated() -> None:
    frame, seen = run(criteria=["random"], sparsities=[0.9999], evaluate="loss")
    assert frame.status.tolist() == ["done", "disconnected"]
    assert len(seen.evaluated) == 1


@pytest.mark.parametrize("left", [False, True])
def test_what_another_process_evaluates_is_waited_for_or_taken_over(
    left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, _ = run(keep_networks=True)
    run("other", evaluate="loss")
    (snip,) = frame.identity[frame.criterion == "snip"]
    polls = list[str]()

    def holder(_self: Any, _identity: str) -> str | None:
        polls.append(_identity)
        if len(polls) < 3:
            return "elsewhere:1"
        if not left:
            shutil.copy(f"other/evaluations/{snip}.json", "r/evaluations")
        return None

    claim = Claims.claim
    monkeypatch.setattr(evaluations, "POLL", 0.01)
    monkeypatch.setattr(Claims, "claim", lambda self, name: (name != snip or len(polls) > 2) and claim(self, name))
    monkeypatch.setattr(Claims, "holder", holder)
    frame, seen = run(evaluate="loss")
    assert polls == [snip] * 3
    assert frame["loss"].notna().all()
    assert seen.evaluated[-1] == snip
    assert (seen.seconds[-1] > 0) == left
    assert seen.waited == [["elsewhere:1"]]


def test_workers_share_networks_by_their_dense_network() -> None:
    """None has more than its share, so that the last dense network's are divided, too."""
    trials = resolve(named(criteria=["snip", "random", "magnitude"], sparsities=[0.75], seeds=2)).trials
    trials.sort(key=lambda trial: trial.seed)
    seeds = [[trial.seed for trial in cell] for cell in shares(trials, 2)]
    assert seeds == [[0] * 4, [1] * 4]
    assert [len(cell) for cell in shares(trials, 3)] == [3, 1, 3, 1]
    assert [len(cell) for cell in shares(trials[:4], 2)] == [2, 2]
    assert [trial for cell in shares(trials, 3) for trial in cell] == trials


@pytest.mark.parametrize(
    ("workers", "asked", "seconds", "done", "left", "worth"),
    [
        (1, 1, 900.0, 1, 9, False),
        (2, 2, 0.0, 0, 9, True),  # as the sweep says
        (2, "auto", 0.0, 0, 9, False),  # nothing is known yet
        (2, "auto", 0.5, 1, 9, False),  # 4.5 s are left, and half of them are saved
        (2, "auto", 2.0, 1, 9, True),
        (2, "auto", 4.0, 2, 6, False),  # 12 s are left, of which 6 are saved: what two starts take
        (2, "auto", 900.0, 1, 1, False),
        (4, "auto", 4.0, 2, 6, True),
    ],
)
def test_workers_are_begun_when_they_are_worth_it(
    workers: int, asked: Any, seconds: float, done: int, left: int, worth: bool, tmp_path: Path
) -> None:
    runner = Runner(resolve(named(seeds=1, workers=asked)))
    found = Evaluations(runner, Store(tmp_path / "r", create=True), ["loss"])
    assert found._is_worth(workers, seconds, done, left) == worth


@pytest.mark.slow
def test_worker_processes_evaluate_as_this_process_does(caplog: pytest.LogCaptureFixture) -> None:
    keys: dict[str, Any] = {"seeds": 2, "keep_networks": True, "evaluate": "loss,gap,verdict-linf:eps=0.1:n=20"}
    here, _ = run("here", **keys)
    run("r", **keys | {"evaluate": None})
    with caplog.at_level("INFO", logger="pai_bench"):
        frame, seen = run("r", **keys, workers=2)
    assert "6 networks to evaluate in 2 worker processes" in caplog.text
    assert sorted(seen.evaluated) == sorted(frame.identity)
    columns = [name for name in map(str, here) if name.startswith(("loss", "gap", "verdict")) and "seconds" not in name]
    assert len(columns) > 5
    pd.testing.assert_frame_equal(frame[columns], here[columns], rtol=1e-5)
    dense = {seed: name for name, seed in zip(frame.identity, frame.seed, strict=True) if "-dense-" in name}
    for name, seed in zip(frame.identity, frame.seed, strict=True):
        found = Store("r").read_evaluation(name)
        assert found is not None
        held_against = None if "-dense-" in name else dense[seed]
        assert found.metrics["verdict-linf:eps=0.1:n=20"].dense == held_against


@pytest.mark.slow
@pytest.mark.usefixtures("dense_seen")
def test_metrics_that_workers_do_not_know_are_taken_here(caplog: pytest.LogCaptureFixture) -> None:
    frame, seen = run(workers=2, evaluate="distance")
    assert frame.distance.notna().all()
    assert "unknown metric 'distance'" in caplog.text
    assert len(seen.evaluated) == len(frame)


NETWORK = """
import os
import torch

class Ends(torch.nn.Linear):
    def forward(self, x):
        if os.path.exists("now") and len(x) > 100:
            os.kill(os.getpid(), 6)
        return super().forward(x.flatten(1))

def network(in_shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 16), torch.nn.ReLU(), Ends(16, classes))
"""


@pytest.mark.slow
def test_a_network_that_ends_its_process_is_told_and_the_others_are_evaluated(caplog: pytest.LogCaptureFixture) -> None:
    Path("ends.py").write_text(NETWORK)
    models = ["./ends.py:network", "lenet-300-100"]
    keys: dict[str, Any] = {"models": models, "criteria": ["random"], "keep_networks": True, "workers": "auto"}
    run(**keys)
    Path("now").touch()
    frame, seen = run(**keys, evaluate="loss")
    assert frame["loss"].notna().tolist() == [name == "lenet-300-100" for name in frame.model]
    assert sorted(seen.evaluated) == sorted(frame.identity[frame.model == "lenet-300-100"])
    assert caplog.text.count("is not evaluated: RuntimeError: the worker process died (killed by signal 6") == 2
    assert Path("r/networks").exists()


def test_trials_of_another_command_are_held_against_the_same_dense_network(
    dense_seen: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    for criterion in ("snip", "imp:p=0.5"):
        assert main([*COMMAND, "--criteria", criterion, "--sparsities", "0.5"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--evaluate", "distance"]) == 0
    assert dense_seen == [False, True, True]
    out = capsys.readouterr().out
    assert "3 trials to run on cpu" in out  # the dense one once
    assert "are already stored" not in out
    assert "[3/3]" in out
    assert pb.read_results("results")["distance"].notna().all()


def test_a_trial_without_its_dense_one_is_evaluated_all_the_same(
    dense_seen: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*COMMAND, "--criteria", "snip"]) == 0
    next(Path("results/trials").glob("*-dense-*.json")).unlink()
    assert main(["evaluate", "--evaluate", "distance"]) == 0
    assert dense_seen == [False]
    assert "is not kept: networks are not held against it" in caplog.text


def test_a_dry_run_names_the_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--evaluate", "gap, loss", "--dry-run"]) == 0
    assert "afterwards, not estimated: gap, loss" in capsys.readouterr().out


def test_metrics_are_no_part_of_the_identity() -> None:
    plain, other = (run(epochs=0, evaluate=metrics)[0].identity.tolist() for metrics in (None, "gap"))
    assert plain == other
    assert Store("r").read_evaluation(plain[0]) is not None
