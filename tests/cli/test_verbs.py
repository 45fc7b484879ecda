"""What the verbs print and how their arguments are read, by values by hand."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors import safe_open

import pai_bench as pb
from pai_bench.analyses.conformance import Result
from pai_bench.cli.checks import check_rows
from pai_bench.cli.console import Output, make_console
from pai_bench.cli.entry import main
from pai_bench.cli.listing import data_row, first_paragraph, plugin_name, recipe_row
from pai_bench.cli.parser import metavar
from pai_bench.cli.reports import format_of
from pai_bench.cli.sweeps import print_interruption, print_plan
from pai_bench.experiment import recipe
from pai_bench.experiment.resolve import resolve
from pai_bench.experiment.runner import Runner
from pai_bench.experiment.trial import Trial
from pai_bench.results import Store
from pai_bench.support.environment import versions
from pai_bench.support.errors import UserError
from pai_bench.support.registry import CRITERIA, DATA, MODELS, Registry
from tests.experiment.test_runner import sweep
from tests.results.test_verification import checkpoint


@pytest.mark.parametrize(
    ("path", "option", "form"),
    [
        ("a.md", None, "markdown"),
        ("a.MARKDOWN", None, "markdown"),
        ("a.csv", None, "csv"),
        ("a.tex", "latex", "latex"),
        ("a.htm", None, "html"),
        ("a", None, "markdown"),
        ("a", "csv", "csv"),
        ("a.txt", "csv", "csv"),
        (".", None, "markdown"),
        (".", "html", "html"),
    ],
)
def test_the_format_of_a_report(path: str, option: str | None, form: str) -> None:
    assert format_of(Path(path), option) == form


@pytest.mark.parametrize(
    ("path", "option", "message"),
    [
        ("a.csv", "latex", "a.csv has the suffix of csv, not of --format latex; leave one of them out"),
        (
            "a.txt",
            None,
            r"no report is written as .txt \(a.txt\); known are .md, .csv, .json, .tex, .html, or give --format",
        ),
    ],
)
def test_formats_that_do_not_fit(path: str, option: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        format_of(Path(path), option)


@pytest.mark.parametrize(
    ("to", "shown"),
    [
        (int, "N"),
        (float | None, "X"),
        (str, "NAME"),
        (Literal["a", "b"], "a|b"),
        (int | Literal["auto"], "N|auto"),
        (recipe.KEYS["seeds"], "N|A,B,..."),
    ],
)
def test_how_a_value_is_written_in_a_help_text(to: Any, shown: str) -> None:
    assert metavar(to) == shown


@pytest.mark.parametrize("registry", [CRITERIA, DATA, MODELS], ids=lambda registry: registry.kind)
def test_lists_describe_everything(registry: Registry) -> None:
    own = [plugin for plugin in registry.plugins() if plugin.target.__module__.startswith("pai_")]
    assert len(own) > 4
    assert [plugin.name for plugin in own if not first_paragraph(plugin.target)] == []


def test_rows_of_lists() -> None:
    rows = {plugin.name: data_row(plugin) for plugin in DATA.plugins()}
    assert rows["cifar100"][2:7] == ["3x32x32", "100", "50,000", "10,000", "flip-crop"]
    assert rows["folder:"][0] == "folder:NAME"
    assert rows["folder:"][2:7] == [""] * 5
    assert len({len(row) for row in rows.values()}) == 1
    names = {plugin.name: plugin_name(plugin) for plugin in MODELS.plugins()}
    assert (names["vgg-11-bn"], names["vgg-13-bn"], names["timm:"]) == ("vgg-11-bn (vgg)", "vgg-13-bn", "timm:NAME")
    grid: dict[str, Any] = {"models": ("lenet-300-100",), "criteria": ("snip",), "sparsities": (0.9,), "seeds": 600}
    made = recipe.Recipe("r", ({**grid, "data": ("mnist",), "epochs": 1, "batch_size": 100},), "what", "who")
    assert recipe_row(made) == ["r", "what", "who", "1,200", "1.1e+14"]  # 1200 * 60000 * 6 * 266200 = 1.14998e14
    unknown = recipe.Recipe("r", ({**grid, "data": ("folder:x",), "epochs": 1},))
    assert recipe_row(unknown)[3:] == ["1,200", ""]


def test_prune_prints_what_is_kept_of_each_layer(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "lenet-300-100", "--criterion", "er", "--sparsity", "0.9", "--device", "cpu"]
    assert main(["prune", *arguments, "--variant", "reinit", "--save-weights", "w.safetensors"]) == 0
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "er + reinit on lenet-300-100, sparsity 0.9000"
    # 26,620 of 266,200: fc3 stays whole, and the rest is divided as 784 + 300 = 1,084 to 300 + 100 = 400
    assert [line for line in lines if line.startswith("fc")] == [
        "fc1.weight 235,200 18,714 7.96",
        "fc2.weight 30,000 6,906 23",
        "fc3.weight 1,000 1,000 100",
    ]
    assert any(line.startswith("mask: mask.safetensors, 26,620 of 266,200 connections, scored in ") for line in lines)
    assert "not prunable: 410 other parameters" in lines
    assert "variant reinit: the mask is the plain one; draw the weights again before training" in lines
    assert Path("w.safetensors").is_file()


@pytest.mark.parametrize("variant", ["none", "reinit"])
def test_prune_writes_the_smaller_network(variant: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "lenet-300-100", "--criterion", "snap", "--sparsity", "0.5", "--device", "cpu"]
    arguments += ["--seed", "3"]
    assert main(["prune", *arguments, "--variant", variant, "--shrink", "--save-weights", "w.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("smaller network: small.safetensors, ") for line in lines)
    assert "of 266,610 parameters are left; read the network in Python by" in lines[-2]
    small = eval(lines[-1].strip(), {"pai_bench": pb})  # as a user would copy it
    assert f"{sum(parameter.numel() for parameter in small.parameters()):,} of" in lines[-2]
    assert main(["prune", *arguments, "-o", "m.safetensors"]) == 0
    model = pb.create_model("lenet-300-100", input_shape=(1, 28, 28), num_classes=10)
    model.load_state_dict(pb.initial_weights("lenet-300-100", "digits", seed=3))
    plain = pb.shrink(model, pb.GroupMask.load("m.safetensors"))
    inputs = torch.randn(4, 1, 28, 28)
    assert torch.equal(plain(inputs), small(inputs)) == (variant == "none")
    with safe_open("small.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["shrunk"])
    assert facts.pop("versions") == versions()
    assert facts == {
        **{"model": "lenet-300-100", "input_shape": [1, 28, 28], "num_classes": 10, "init": "own", "data": "digits"},
        **{"seed": 3, "criterion": "snap" if variant == "none" else "snap + reinit"},
        **{"sparsity": 0.5, "sparsity_of": "weights"},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "seed -1 must not be negative"),
        (["-o", "x", "--save-weights", "./x"], "mask and weights cannot both be written to x"),
        (["--shrink", "-o", "x", "--save-weights", "x"], "smaller network and weights cannot both be written to x"),
        (
            ["--shrink"],
            "--shrink is for criteria of whole units, such as snap: snip removes single weights, which makes",
        ),
        (["--shrink", "-o", "."], "the smaller network cannot be written to ., which is a folder: name a file"),
    ],
)
def test_what_prune_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "--model", "lenet-300-100", "--sparsity", "0.5", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-0.1", "inf", "nan"])
def test_times_that_cannot_be(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", "--seconds", seconds]) == 2
    assert f"seconds {float(seconds):g} finite, not negative" in capsys.readouterr().err


def test_a_standard_output_that_takes_no_more(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        out = Output(file)
        assert out.write("word") == 4
        out.flush()
        assert (tmp_path / "out").read_text() == "word"
    with caplog.at_level(logging.INFO):
        assert out.write("lost") == 4
        assert out.write("lost") == 4
        out.flush()
    ((_, level, message),) = caplog.record_tuples  # one word
    assert level == logging.WARNING
    assert message.endswith("(I/O operation on closed file.); the work goes on")
    nowhere = Output(None)
    assert nowhere.write("nobody reads it") == len("nobody reads it")
    nowhere.close()


def test_a_reader_that_has_enough_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as file, caplog.at_level(logging.INFO):
        out = Output(file)
        out.write("word")
        out.flush()
        out.flush()
    assert [level for _, level, _ in caplog.record_tuples] == [logging.INFO]


@pytest.mark.parametrize(("columns", "width"), [("80", 160), ("200", 200)])
def test_lines_of_a_log_are_long(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with Path("log").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert make_console().width == width


def test_a_plan_counts_what_earlier_versions_stored_under_other_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = resolve(sweep(criteria=["random", "er"], seeds=1))
    dense, drawn, er = catalog.trials
    console, runner = make_console(), Runner(catalog)
    assert print_plan(console, catalog, "r", retry_failed=False) == [dense, drawn, er]
    store = Store("r", create=True)
    for trial in (dense, er):
        store.write(runner.failure(trial, RuntimeError("no")))
    assert print_plan(console, catalog, "r", retry_failed=False) == [drawn]
    assert print_plan(console, catalog, "r", retry_failed=True) == [dense, drawn, er]
    former = {drawn.identity: er}
    monkeypatch.setattr(Trial, "former", property(lambda trial: former.get(trial.identity)))
    capsys.readouterr()
    assert print_plan(console, catalog, "r", retry_failed=False) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines == [*(f"stored  {trial.identity}" for trial in catalog.trials), "3 trials, 0 to run on cpu"]


def test_an_interrupt_counts_trials_of_several_grids_once(capsys: pytest.CaptureFixture[str]) -> None:
    catalogs = [(resolve(sweep(criteria=[name], seeds=1)), out) for name, out in (("er", "r"), ("random", "r/"))]
    catalogs.append((catalogs[0][0], "s"))
    (catalog, _), *_ = catalogs
    store = Store("r", create=True)
    store.write(Runner(catalog).failure(catalog.trials[0], RuntimeError("no")))
    print_interruption(make_console(), catalogs, None)
    expected = "interrupted: 1 of 5 trials are stored in r and r/ and s; the same command runs the rest"
    assert capsys.readouterr().out.splitlines() == [expected]
    stored, first, *_ = (trial.identity for trial in (*catalog.trials, *catalogs[1][0].trials))
    checkpoint(store, "of another sweep")
    checkpoint(store, first, stored, "of another sweep")  # it was stored just now
    print_interruption(make_console(), catalogs, "time limit of 5m")
    expected = "time limit of 5m: 1 of 5 trials are stored in r and r/ and s, and 1 trial will resume from a checkpoint"
    assert capsys.readouterr().out.splitlines() == [f"{expected}; the same command runs the rest"]


def test_rows_of_checks() -> None:
    """One for the networks on which a check passed, then one for each error, wherever it came up."""

    def result(check: str, network: str, error: str = "") -> Result:
        return Result(check, network, not error, error and f"Mine on {network}: {error}", 0.1, error)

    results = [
        result("contract", "mlp"),
        result("contract", "cnn", "line 3: 'a.weight' has 12 of (3, 4)"),
        result("masked", "mlp", "line 3: 'b.weight' has 5 of (1, 5)"),
        result("masked", "cnn", "line 4: 'b.weight' has 5 of (1, 5)"),
    ]
    assert list(check_rows(results)) == [
        ("contract", "mlp", "passed", ""),
        ("contract, masked", "cnn, mlp", "failed", "line 3: 'a.weight' has 12 of (3, 4)"),
        ("masked", "cnn", "failed", "Mine on cnn: line 4: 'b.weight' has 5 of (1, 5)"),
    ]


def test_a_smaller_network_drawn_again_is_zero_where_single_weights_are_removed() -> None:
    options = ["--model", "lenet-300-100", "--criterion", "cnip", "--sparsity", "0.9", "--shrink"]
    options += ["-o", "small.safetensors"]
    for variant in ("none", "reinit"):
        assert main(["prune", *options, "--variant", variant]) == 0
        with safe_open("small.safetensors", framework="pt") as file:
            kept = sum(int(file.get_tensor(f"{name}.weight").count_nonzero()) for name in ("fc1", "fc2", "fc3"))
        assert kept == round(0.1 * (784 * 300 + 300 * 100 + 1000))
