"""The command line as a person uses it, mistakes and interruptions included."""

import functools
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.cli.parser import entries
from pai_bench.support.environment import HARMLESS, command, without_paths
from pai_bench.support.registry import REGISTRIES
from tests.data.files import PETS, write_folder

FAST = ["--quick", "--models", "lenet-300-100", "--device", "cpu"]
PRUNE = ["prune", "--model", "lenet", "--sparsity", "0.5", "-o", "m"]


def run(*arguments: str) -> int:
    """``pai-bench run`` with a small sweep."""
    return main(["run", *FAST, *arguments])


def test_the_main_job_small(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--criteria", "snip,random", "--sparsities", "0.9,0.99", "--seeds", "2") == 0
    out = capsys.readouterr().out
    assert "10 trials to run on cpu" in out
    assert "[10/10] digits lenet-300-100 random 0.99 seed 1:" in out
    assert "dense" in out
    assert "sparsity 0.99" in out
    assert "±" in out
    assert "report: results/report.md" in out
    assert len(pb.read_results("results")) == 10
    report = Path("results/report.md").read_text()
    figure = report.partition("](figures/")[2].partition(")")[0]
    assert (Path("results/figures") / figure).read_text().startswith("<?xml")
    assert run("--criteria", "snip,random", "--sparsities", "0.9,0.99", "--seeds", "2") == 0
    assert "10 of 10 trials are already stored" in capsys.readouterr().out


@pytest.mark.slow
def test_the_main_job_shows_a_difference_between_trained_networks() -> None:
    short = ["--sparsities", "0.98", "--epochs", "10"]
    assert main(["run", "--criteria", "snip,random", "--models", "lenet", "--device", "cpu", *short]) == 0
    report = Path("results/report.md").read_text()
    assert "it beats random by" in report
    assert "§" not in report
    frame = pb.read_results("results")
    assert (frame.train_loss < 0.5).all()


def test_a_recipe_with_flags_on_top(capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.toml").write_text(
        'criteria = ["snip"]\nmodels = ["vgg"]\nepochs = 9\nout = "there"\n'
        "[[grid]]\nsparsities = [0.5]\n[[grid]]\nsparsities = [0.6]\n"
    )
    assert main(["run", "r.toml", "--models", "lenet-300-100", "--epochs", "1", "--seeds", "1"]) == 0
    frame = pb.read_results("there")
    assert sorted(frame.sparsity) == [0.0, 0.5, 0.6]
    assert set(frame.model) == {"lenet-300-100"}
    assert set(frame.epochs) == {1}
    out = capsys.readouterr().out
    assert "report: there/report.md" in out
    assert "1 seed\n" in out  # the dense trial that both grids share counts once


def test_a_dry_run_lists_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run("--criteria", "snip", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "to run  digits-lenet-300-100-snip-0.9-s0-" in out
    assert "2 trials, 2 to run on cpu" in out
    assert not Path("results").exists()
    assert run("--criteria", "snip", "--dry-run", "--seeds", "5,3") == 0
    assert re.findall(r"-snip-0.9-s(\d)-", capsys.readouterr().out) == ["5", "3"]
    assert run("--criteria", "snip", "--dry-run", "--learning-rate", "0.1", "--protocol", "short") == 0
    assert not caplog.messages


def test_a_failed_trial_is_exit_code_1(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    assert run("--criteria", "snip", "--learning-rate", "1e30") == 1
    assert "without --protocol, the learning rate is that of Adam (short-adam)" in caplog.text
    out = capsys.readouterr().out
    assert "diverged" in out
    assert "--retry-failed" in out
    report = Path("results/report.md").read_text()
    assert "## Failed trials" in report


def test_a_disconnected_network_is_flagged_and_trained_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--criteria", "magnitude", "--sparsities", "0.9999") == 0
    out = capsys.readouterr().out
    assert "no path from input to output (1 of 1 seed), first cut fc1.weight" in out
    report = Path("results/report.md").read_text()
    assert "‡ lenet-300-100, magnitude at 0.9999: no path from input to output" in report
    assert "[1] ‡ |" in report
    assert run("--criteria", "magnitude", "--sparsities", "0.9999", "--train-disconnected") == 0
    assert "first cut fc1.weight; trained all the same" in capsys.readouterr().out


def test_prune_writes_a_mask(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--model", "lenet", "--criterion", "snip", "--sparsity", "0.9", "--seed", "3"]) == 0
    mask = pb.Mask.load("mask.safetensors")
    assert mask.kept == 43_050
    assert "43,050 of 430,500" in capsys.readouterr().out
    first = {name: tensor.tolist() for name, tensor in mask.items()}
    main(["prune", "--model", "lenet", "--sparsity", "0.9", "--seed", "3", "-o", "again.safetensors"])
    assert {name: tensor.tolist() for name, tensor in pb.Mask.load("again.safetensors").items()} == first


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("digits,mnist", ["digits", "mnist"]),
        ("folder:a,b", ["folder:a,b"]),
        ("digits, folder:a,b , mnist", ["digits", "folder:a,b", "mnist"]),
        ("folder:c,folder:a,b", ["folder:c", "folder:a,b"]),
        ("folder:a,c", ["folder:a", "c"]),
        ("folder:in,data,mnist", ["folder:in,data", "mnist"]),
        ("./x,y.py:small,lenet", ["./x,y.py:small", "lenet"]),
        ("snip,x,y.py:Mine:a=1,grasp", ["snip", "x,y.py:Mine:a=1", "grasp"]),
        ("./z.py:a,./z.py:b", ["./z.py:a", "./z.py:b"]),
    ],
)
def test_commas_in_paths_that_are_there_divide_nothing(text: str, found: list[str]) -> None:
    for folder in ("a,b", "c", "there/in,data"):
        Path(folder).mkdir(parents=True)
    for file in ("x,y.py", "z.py"):
        Path(file).touch()
    assert list(entries(text, [Path(), Path("there")])) == found


def test_a_folder_with_a_comma_is_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "there" / "with,comma", PETS)
    flags = ["--models", "lenet-300-100", "--criteria", "snip", "--sparsities", "0.5", "--seeds", "1"]
    sizes = ["--score-batch", "2", "--batch-size", "3", "--epochs", "1", "--dry-run"]
    assert main(["run", *flags, *sizes, "--data", "folder:with,comma", "--data-dir", "there"]) == 0
    assert "to run  folder_with_comma" in capsys.readouterr().out


LISTS = {
    "criteria": "temperature=200",
    "models": "(lenet)",
    "data": "folder:NAME",
    "schedules": "steps=5 returns=False",
    "protocols": "arXiv:2006.05467",
    "initialisations": "variance 2 / fan in",
    "metrics": "share of the test set, in [0, 1]",
    "backends": "Worker processes, one at least.",
    "recipes": "quick",
}


@pytest.mark.parametrize("kind", [*REGISTRIES, "recipes"])
def test_list(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    assert LISTS[kind] in " ".join(capsys.readouterr().out.split())


def test_report_again_is_the_same_byte_for_byte(capsys: pytest.CaptureFixture[str]) -> None:
    run("--criteria", "snip")
    assert main(["report", "results", "-o", "one/r.md"]) == 0
    assert main(["report", "results", "-o", "two/r.md"]) == 0
    one, two = ({p.name: p.read_bytes() for p in Path(d).rglob("*.*")} for d in ("one", "two"))
    assert one == two
    figures = {name for name in one if name.endswith(".svg")}
    assert len(figures) > 2
    assert all(name in one["r.md"].decode() for name in figures)
    assert "report: two/r.md" in capsys.readouterr().out


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["--version"], "pai-bench "),
        (["--help"], "examples:"),
        (["run", "--help"], "--seeds N"),
        (["run", "--help"], "or a share of them, 2%;"),
        (["prune", "--help"], "--sparsity-of"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--criteria", "snipp"], "unknown criterion 'snipp': did you mean snip"),
        (["run", "--models", "lenett"], "unknown model 'lenett': did you mean lenet"),
        (["run", "--data", "digit"], "unknown data set 'digit': did you mean digits"),
        (["run", "--criteria", "grasp:temp=1"], "unknown option of grasp 'temp': did you mean temperature"),
        (["run", "--criterai", "snip"], "unrecognized arguments: --criterai (did you mean --criteria?)"),
        (["run", "--sparsities", "1"], "sparsity 1 is outside [0, 1)"),
        (["run", "--sparsities", "0.9,-1"], "sparsity -1 is outside [0, 1)"),
        (["run", "--sparsities", "0.9,0.90"], "sparsities: 0.9 is given twice"),
        (["run", "--sparsities", "0.9,high"], "--sparsities high is not a finite number"),
        (["run", "--sparsities", ""], "--sparsities: the list is empty or has an empty entry"),
        (["run", "--seeds", "0"], "seeds 0 must be at least 1"),
        (["run", "--seeds", "many"], "--seeds many is not a whole number"),
        (["run", "--seeds", "0,few"], "--seeds few is not a whole number"),
        (["run", "--seeds", ","], "--seeds: the list is empty or has an empty entry"),
        (["run", "--criteria", ""], "--criteria: the list is empty or has an empty entry"),
        (["run", "--criteria", "snip,,random"], "--criteria: the list is empty or has an empty entry"),
        (["run", "--data-dir", "nowhere"], "data directory nowhere does not exist"),
        (["run", "--data", "mnist", "--data-dir", "broken"], "incomplete or damaged"),
        (["run", "--out", "file"], "results folder file cannot be written"),
        (["run", "--out", "file/below"], "results folder file/below cannot be written"),
        (["run", "--out", "/proc/nowhere"], "results folder /proc/nowhere cannot be written"),
        (["run", "--device", "cuda:77"], "device 'cuda:77' is not there"),
        (["run", "--device", "tpu"], "device 'tpu' is not one of auto, cpu, cuda, cuda:N"),
        (["run", "--batch-size", "5000"], "batch size 5000 is larger than the 1347 training examples"),
        (["run", "--bn", "both"], "--bn both is not one of published, train, eval"),
        (["run", "--workers", "many"], "--workers many is neither a whole number nor auto"),
        (
            ["run", "--dry-run", "--criteria", "snip-it:when=during"],
            "its 7 cuts end after 32 epochs, and training has 10",
        ),
        (["run", "--dry-run", "--criteria", "rigl", "--epochs", "3"], "no change comes, the first after 100 steps"),
        (["run", "--dry-run", "--criteria", "snip-it:delay=1"], "delay and every are for when=during"),
        (["run", "--dry-run", "--criteria", "gmp", "--prune-at", "5"], "gmp has its own times"),
        (["run", "--dry-run", "--criteria", "snip", "--prune-at=-5"], "prune-at -5 is not within the 420 steps"),
        (["run", "--dry-run", "--criteria", "gmp", "--variants", "shuffle"], "gmp prunes during it"),
        (["run", "missing.toml"], "no recipe file missing.toml"),
        (["report", "missing"], "results folder missing does not exist"),
        (["report", "empty"], "results folder empty has no results"),
        (["report", "file"], "file is a file, not a results folder"),
        (["prune", "--model", "lenet", "--sparsity", "2"], "sparsity 2 is outside [0, 1)"),
        ([*PRUNE, "-o", "file/m"], "the mask cannot be written to file/m"),
        ([*PRUNE, "-o", "."], "to ., which is a folder"),
        ([*PRUNE, "--criterion", "gmp"], "gmp prunes during training: pai-bench run trains the network, too"),
        ([*PRUNE, "--prune-at", "5"], "unrecognized arguments: --prune-at 5"),
        ([*PRUNE, "--prune-when", "stable"], "unrecognized arguments: --prune-when stable"),
        (["collapse", "--criteria", "snip,gmp"], "gmp prunes during training: a search is of networks that are not"),
        ([*PRUNE, "--save-weights", "/dev/null"], "cannot be written to /dev/null, which is a device"),
        ([*PRUNE, "--save-weights", "./m"], "mask and weights cannot both be written to m"),
        (["list", "everything"], "invalid choice: 'everything'"),
        ([], "the following arguments are required: VERB"),
        (["rum"], "invalid choice: 'rum'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("file").touch()
    Path("broken/MNIST/raw").mkdir(parents=True)
    Path("broken/MNIST/raw/train-images-idx3-ubyte").write_bytes(b"\0" * 20)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("pai-bench: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not Path("results").exists()


def test_mistakes_do_no_harm_to_what_is_stored(capsys: pytest.CaptureFixture[str]) -> None:
    run("--criteria", "snip")
    before = {path: path.read_bytes() for path in Path("results").rglob("*.json")}
    assert run("--criteria", "snipp") == 2
    assert main(["report", "results", "-o", f"{next(iter(before))}/report.md"]) == 2
    assert {path: path.read_bytes() for path in Path("results").rglob("*.json")} == before
    assert "Traceback" not in capsys.readouterr().err


def test_a_damaged_trial_is_named_set_aside_and_run_again(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run("--criteria", "snip")
    path = next(Path("results/trials").glob("*snip*.json"))
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    capsys.readouterr()
    assert run("--criteria", "snip") == 0
    assert str(path) in caplog.text
    assert path.with_suffix(".damaged").read_bytes() == whole[:100]
    assert "1 of 2 trials are already stored" in capsys.readouterr().out
    assert len(pb.read_results("results")) == 2


@pytest.mark.slow
def test_an_interrupt_says_how_to_go_on_and_the_same_command_finishes() -> None:
    command = [sys.executable, "-m", "pai_bench", "run", "--models", "lenet-300-100", "--criteria", "snip,random"]
    command += ["--seeds", "2", "--epochs", "8", "--device", "cpu"]
    # what runs in the background of a shell is deaf to interrupts, and so would be what it starts
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=listen) as process:
        deadline = time.monotonic() + 300  # of a busy machine
        trials = Path("results/trials")
        while process.poll() is None and len(list(trials.glob("*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "of 10 trials are stored in results" in out
    assert "; the same command runs the rest" in " ".join(out.split())
    assert "Traceback" not in err
    stored = {path: path.read_bytes() for path in Path("results/trials").glob("*.json")}
    assert 2 <= len(stored) < 10
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{len(stored)} of 10 trials are already stored" in again.stdout
    assert len(pb.read_results("results")) == 10
    assert all(path.read_bytes() == content for path, content in stored.items())


@pytest.mark.slow
def test_the_log_level_says_how_much_is_logged() -> None:
    said = "DEBUG: this is where the error comes from:"
    for level, shown in (("debug", True), ("info", False)):
        command = [sys.executable, "-m", "pai_bench", "run", "nothing.toml", "--log-level", level]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert (said in done.stderr) == shown
        assert "pai-bench: no recipe file nothing.toml" in done.stderr


def test_a_closed_pipe_ends_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "pai_bench", "list", "data"], stdout=closed, stderr=subprocess.PIPE
        )
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["run", "--data-dir", "/home/me/data"], "run --data-dir data"),
        (["run", "--data-dir=/home/me/data/", "--out=/results"], "run --data-dir=data --out=results"),
        (["run", "--data", "folder:/home/me/pets,digits"], "run --data folder:pets,digits"),
        (["run", "--data", "folder:~/pets,folder:/c"], "run --data folder:pets,folder:c"),
        (["run", "--criteria", "/x/mine.py:Mine:a=1"], "run --criteria mine.py:Mine:a=1"),
        (["run", "./r.toml", "--out", "a/b", "../../home/me/x"], "run ./r.toml --out a/b x"),
        (["run", "--out", "/home/my name/the res"], "run --out 'the res'"),
        (["run", "./../../home/u/x"], "run x"),
    ],
)
def test_commands_are_stored_without_paths_of_the_machine(arguments: list[str], shown: str) -> None:
    assert command(arguments) == f"pai-bench {shown}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("OSError: boom at '/home/me/secret.txt' (1/2)", "OSError: boom at 'secret.txt' (1/2)"),
        ("see https://a.org/b/c and ~/notes, ../up/there", "see https://a.org/b/c and notes, there"),
    ],
)
def test_errors_are_stored_without_paths_of_the_machine(text: str, shown: str) -> None:
    assert without_paths(text) == shown


def test_harmless_warnings_of_torch_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert main(["list", "recipes"]) == 0
        warnings.warn(f"{HARMLESS[0]}! Attempting to set the primary context...", UserWarning, stacklevel=1)
        warnings.warn(f"{HARMLESS[1]}. Consider setting", UserWarning, stacklevel=1)
        warnings.warn("mine", UserWarning, stacklevel=1)
    assert [str(one.message) for one in seen] == ["mine"]


@pytest.mark.slow
def test_of_several_grids_none_keeps_the_process_that_has_looked_at_its_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("nets.py").write_text(
        "from torch import nn\ndef net(shape, classes): return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))\n"
    )
    grid = '[[grid]]\nmodels = "./nets.py:net"\nseeds = {}\n'
    for text, kept in ((grid.format(1), True), (grid.format(1) + grid.format(2), False)):
        Path("r.toml").write_text('criteria = "random"\nsparsities = 0.5\n' + text)
        seen: list[bool] = []

        def look(_console: Any, catalogs: Any, _given: Any, seen: list[bool] = seen) -> int:
            seen += [catalog.isolated_process._worker is not None for catalog, _ in catalogs]
            return 0

        monkeypatch.setattr("pai_bench.cli.sweeps.run_or_plan", look)
        assert main(["run", "r.toml", "--device", "cpu"]) == 0
        assert seen == [kept] * len(seen)
        assert len(seen) == text.count("[[grid]]")
