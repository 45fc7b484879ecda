"""Results of classes in files: which trials run again after an edit, and results of earlier versions."""

import hashlib
import json
from pathlib import Path

import pytest

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.sweep import Sweep
from pai_bench.results import Collapse
from pai_bench.scoring.lookup import load_class
from tests.report.records import fields_of

FILE = """\
from dataclasses import dataclass
from pai_bench.scoring import Criterion

@dataclass(frozen=True)
class First(Criterion):
    def score(self, model, batch):
        return {name: w.abs() for name, w in model.weights().items()}

@dataclass(frozen=True)
class Second(Criterion):
    def score(self, model, batch):
        return {name: w for name, w in model.weights().items()}
"""

ARGUMENTS = ["--criteria", "./mine.py:First,./mine.py:Second", "--models", "lenet-300-100", "--device", "cpu"]
RUN = [*ARGUMENTS, "--sparsities", "0.5", "--seeds", "1", "--epochs", "0", "--variants", "none,quota:./mine.py:First"]
COLLAPSE = [*ARGUMENTS, "--seeds", "1", "--points", "2", "--out", "searches"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(FILE)


def write(text: str) -> None:
    """Write the file, and forget the class that was loaded from it, as a new process does."""
    Path("mine.py").write_text(text)
    load_class.cache_clear()


def missing_trials(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The trials that are not stored."""
    capsys.readouterr()
    assert main(["run", *RUN, "--dry-run"]) == 0
    return [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("to run")]


@pytest.mark.slow
def test_editing_one_class_runs_no_trial_of_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *RUN]) == 0
    assert missing_trials(capsys) == []
    former = pb.get_criterion("./mine.py:First").name
    write(FILE.replace("name: w for", "name: 2 * w for") + "\n\n# a comment\n")
    missing = missing_trials(capsys)
    assert len(missing) == 2
    assert all("Second" in name for name in missing)
    write(FILE.replace("w.abs()", "w.square()"))
    assert len(missing_trials(capsys)) == 3  # also quota:First of the second class
    assert main(["run", *RUN]) == 0
    report = Path("results/report.md").read_text()
    assert f"{former} is not shown, since there is a newer version" in report
    assert pb.get_criterion("./mine.py:First").name in report
    assert len(pb.read_results("results")) == 8  # everything is still there


def rename_as_before(folder: Path) -> int:
    """Name results as when the whole file was hashed, and remove their times. Returns their number."""
    old = hashlib.sha256(FILE.encode()).hexdigest()[:8]
    names = {pb.get_criterion(f"./mine.py:{name}").name: f"{name}@{old}" for name in ("First", "Second")}
    catalog, count = resolve(sweep()), 0
    former = {trial.identity: trial.former.identity for trial in catalog.trials if trial.former}
    for path in folder.glob("*.json"):
        text = json.dumps(fields_of(path.read_text()))
        for name, before in names.items():
            text = text.replace(name, before)
        content = json.loads(text)
        del content["provenance"]["finished"]
        if folder.name == "trials":
            content["identity"] = former.get(path.stem, path.stem)
        path.unlink()
        text = json.dumps(content)
        name = content["identity"] if folder.name == "trials" else Collapse.from_json(text).identity
        (folder / f"{name}.json").write_text(text)
        count += 1
    return count


def sweep() -> Sweep:
    names = ["./mine.py:First", "./mine.py:Second"]
    return Sweep(
        criteria=names,
        models=["lenet-300-100"],
        sparsities=[0.5],
        seeds=1,
        epochs=0,
        device="cpu",
        variants=["none", "quota:./mine.py:First"],
    )


@pytest.mark.slow
def test_results_under_the_hash_of_the_whole_file_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *RUN]) == 0
    before = pb.read_results("results").set_index("identity").test_loss.sort_index()
    assert rename_as_before(Path("results/trials")) == 5
    stored = pb.read_results("results").identity
    assert len(set(stored) & set(before.index)) == 1  # that of the unpruned network
    assert missing_trials(capsys) == []
    assert set(pb.read_results("results").identity) == set(stored)  # a dry run changes nothing
    assert main(["run", *RUN]) == 0
    assert "5 of 5 trials are already stored" in capsys.readouterr().out
    assert pb.read_results("results").set_index("identity").test_loss.sort_index().equals(before)
    write(FILE.replace("name: w for", "name: 2 * w for"))
    assert len(missing_trials(capsys)) == 2  # the results of the first class are still valid


def test_searches_under_the_hash_of_the_whole_file_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collapse", *COLLAPSE]) == 0
    names = {path.name for path in Path("searches/collapse").glob("*.json")}
    assert rename_as_before(Path("searches/collapse")) == 2
    capsys.readouterr()
    assert main(["collapse", *COLLAPSE]) == 0
    assert "0 searches; 2 more are stored already" in capsys.readouterr().out
    renamed = {path.name for path in Path("searches/collapse").glob("*.json")}
    assert names <= renamed


def test_a_class_in_a_file_may_have_a_name_and_a_source() -> None:
    own = "class Third(First):\n    name = 'mine'\n    source = 'arXiv:1234.56789'\n"
    write(f"{FILE}\n@dataclass(frozen=True)\n{own}")
    first, third = (pb.get_criterion(f"./mine.py:{name}") for name in ("First", "Third"))
    assert (first.name.partition("@")[0], first.source) == ("First", "mine.py")
    assert (third.name.partition("@")[0], third.source) == ("mine", "arXiv:1234.56789")
