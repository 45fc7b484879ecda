"""The verb `evaluate`: networks of stored trials, made again from their commands."""

import dataclasses
from pathlib import Path

import pytest

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.experiment.resolve import resolve
from pai_bench.results import Record, Store, archive
from tests.execution.evaluated import COMMAND, run
from tests.execution.sweeps import named


@pytest.mark.slow
def test_the_verb_trains_by_the_commands_of_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMAND) == 0
    assert main([*COMMAND, "--batch-size", "16", "--criteria", "magnitude"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--evaluate", "loss,gap"]) == 0
    out = capsys.readouterr().out
    assert "5 networks to evaluate" not in out  # they are of two sweeps
    assert "[3/3] digits lenet-300-100 random 0.75 seed 0: loss " in out
    rows = pb.read_results("results")
    assert len(rows) == 5
    assert rows["loss"].tolist() == pytest.approx(rows.test_loss.tolist(), rel=1e-6)
    assert main(["evaluate", "--evaluate", "loss"]) == 0
    assert "to evaluate" not in capsys.readouterr().out


def test_what_earlier_versions_stored_under_another_name_is_evaluated() -> None:
    assert main([*COMMAND, "--criteria", "group:of=magnitude"]) == 0
    store = Store("results")
    (now,) = (one for one in store if "group" in one.identity)
    (trial,) = (one for one in resolve(named(criteria=["group:of=magnitude"], sparsities=[0.75], seeds=1)).trials[1:])
    assert (trial.identity, trial.former is not None) == (now.identity, True)
    assert trial.former is not None
    store.write(dataclasses.replace(now, identity=trial.former.identity, trial=trial.former.configuration()))
    store.path_of(Record, now.identity).unlink()
    assert main(["evaluate", "--evaluate", "loss"]) == 0
    rows = pb.read_results("results")
    assert rows.identity.tolist() == [one.identity for one in Store("results")]
    assert len(rows) == 2
    assert now.identity in set(rows.identity)
    assert rows["loss"].notna().all()


def test_a_command_that_cannot_be_read_again_stops_no_other(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Path("r.toml").write_text('criteria = "magnitude"\n')
    for words in (["--criteria", "snip"], ["--batch-size", "16", "r.toml"]):
        plain = [word for word in COMMAND[1:] if word not in ("--criteria", "snip,random")]
        assert main(["run", *plain, *words]) == 0
    recipe = Path("r.toml").rename("s.toml")
    assert main(["evaluate", "--evaluate", "loss"]) == 1
    assert "r.toml` are not evaluated: no recipe file r.toml" in caplog.text
    assert "2 trials of results" in caplog.text
    assert pb.read_results("results")["loss"].notna().sum() == 2
    recipe.rename("r.toml")
    capsys.readouterr()
    assert main(["evaluate", "--evaluate", "verdict-linf:eps=0.1:n=451"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "are not evaluated: metric verdict-linf:eps=0.1:n=451: n=451 is more than the 450 test examples" in said


@pytest.mark.parametrize("text", ["", " , "])
def test_no_metric_at_all_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(out="results", epochs=0)
    assert main(["evaluate", "--evaluate", text]) == 2
    assert "--evaluate names no metric" in capsys.readouterr().err


def test_a_file_of_records_has_no_networks(capsys: pytest.CaptureFixture[str]) -> None:
    run(epochs=0)
    Path("kept").mkdir()
    archive.pack(Path("r"), Path("kept") / archive.NAME)
    for given in ("kept", f"kept/{archive.NAME}"):
        assert main(["evaluate", given, "--evaluate", "loss"]) == 2
        assert f"{given} is a file of records, without networks" in capsys.readouterr().err
    assert [path.name for path in Path("kept").iterdir()] == [archive.NAME]


def test_metrics_are_stored_in_the_folder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(epochs=0)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write to all but file systems for reading alone
    assert main(["evaluate", "r", "--evaluate", "loss"]) == 2
    assert "r cannot be written, and metrics are stored in it: copy it" in capsys.readouterr().err


def test_trials_from_python_are_evaluated_from_there(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run(out="results")
    assert main(["evaluate", "--evaluate", "loss"]) == 1
    assert "trials that were run from Python are evaluated from there" in caplog.text
    assert "3 trials of results" in caplog.text
    assert "loss" not in pb.read_results("results")


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("los", "unknown metric 'los'"),
        ("verdict-linf:eps=0.1:n=451", "metric verdict-linf:.*n=451 is more than the 450 test examples of digits"),
        ("verdict-linf:eps=0", "eps=0 is outside"),
        ("memorisation", "metric memorisation: the network was trained on true labels"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(metrics: str, message: str) -> None:
    with pytest.raises(pb.UserError, match=message):
        run(evaluate=metrics)
    assert not Path("r").exists()
    assert main(["evaluate", "nowhere", "--evaluate", "loss"]) == 2
