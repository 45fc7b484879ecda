"""A thousand command lines and a thousand recipes that are almost right: an answer or one line, never a traceback.

Nothing that takes long is run: no steps are measured, no criterion is timed, checked or searched for its end.
"""

import io
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest

from pai_bench.cli import collapses, sweeps
from pai_bench.cli.console import FAILED
from pai_bench.cli.entry import main
from pai_bench.results import Store
from pai_bench.support import processes
from tests.report.records import drawn

CASES = 1000

SECONDS = 30
"""What one case may take."""

SMALL = ["--models", "lenet-300-100", "--data", "digits"]
RUN = ["run", "--dry-run", *SMALL, "--sparsities", "0.5,0.9", "--seeds", "2", "--epochs", "1", "--device", "cpu"]
PRUNE = ["prune", "--model", "lenet-300-100", "--criterion", "random", "--sparsity", "0.5"]
COMMANDS = [
    [*RUN, "--criteria", "snip,random"],
    [*RUN, "--criteria", "grasp:temperature=1,synflow:bn=eval", "--variants", "none,shuffle,quota:erk"],
    [*RUN, "--schedule", "linear:steps=10", "--scope", "layerwise", "--target", "direct", "--min-per-layer", "1"],
    [*RUN, "--protocol", "short", "--batch-size", "32", "--learning-rate", "0.1", "--weight-decay", "1e-4"],
    [*RUN, "--init", "vs", "--label-noise", "0.5", "--validation", "0.1", "--train-fraction", "0.5"],
    [*RUN, "--score-batch", "20", "--score-batches", "2", "--score-sampling", "class-3", "--prunable", "*.weight"],
    [*RUN, "--workers", "2", "--lanes", "auto", "--together", "stacked", "--precision", "fp32", "--budget", "0.5"],
    [*RUN, "--criteria", "./mine.py:Mine", "--models", "./mine.py:net", "--data", "./mine.py:points"],
    ["run", "quick", "--dry-run", "--out", "r"],
    ["run", "r.toml", "--dry-run", "--epochs", "2", "--seeds", "0,3", "--keep-first"],
    [*PRUNE, "-o", "m.safetensors"],
    [*PRUNE, "--data", "digits", "--seed", "3", "--save-weights", "w.safetensors", "--variant", "invert"],
    [*PRUNE, "--score-batch", "20", "--repair", "effective-only", "--bn", "train", "--keep-last"],
    ["list", "criteria"],
    ["list", "protocols", "--log-level", "error"],
    ["report", "r", "-o", "report.csv"],
    ["report", "r", "--format", "latex", "-o", "report.tex", "--x", "effective"],
    ["compare", "r", "r", "-o", "compared.md"],
    ["time", "--criteria", "snip,random", *SMALL, "--rounds", "3", "--seconds", "1", "--sparsity", "0.9"],
    ["collapse", "--criteria", "snip,random", *SMALL, "--seeds", "1", "--points", "3", "--rounds", "2"],
    ["check", "snip:bn=eval"],
]

WORDS = [
    *(
        "",
        " ",
        "-",
        "--",
        "---",
        "=",
        ":",
        "::",
        ",",
        ",,",
        ".",
        "..",
        "*",
        "?",
        "[",
        "[]",
        "%",
        "%s",
        "%(prog)s",
        "{}",
    ),
    *("{0}", "[bold]", "[/]", "\\", "\n", "\t", "\r", "'", '"', "#", "@", "é", "ß", "💥", "\u202e", "\ufeff", "\0"),
    *(
        "a\0b",
        "\udcff",
        "a\ud800",
        "x" * 300,
        "x" * 5000,
        "a/" * 2000,
        "0",
        "-0",
        "1",
        "-1",
        "2",
        "1.0",
        "0.5",
        "1e-400",
    ),
    *(
        "1e400",
        "nan",
        "inf",
        "-inf",
        "1_000",
        "٣",
        "0x10",
        "1e3",
        "9" * 9,
        "9" * 20,
        "9" * 400,
        "9" * 5000,
        "1,2",
        "0,0",
        "5,",
    ),
    *("true", "none", "None", "auto", "cuda", "cuda:99", "cpu:7", "meta", "snip", "snip:", "snip:=", "snip:bn"),
    *(
        "snip:bn=x",
        "snip:bn=eval:bn=eval",
        "snip:score-init=vs",
        "erk",
        "random:seed=1e5",
        "quota:",
        "quota:quota:snip",
    ),
    *("grasp:temperature=0", "force:micro-batch=0", "synflow:output=x", "snip:score-dtype=int8", "snip:ties=x"),
    *("linear", "linear:steps=0", "linear:steps=-1", "exponential:steps=1e9", "one-shot:steps=2", "lenet", "vgg-x"),
    *(
        "folder:",
        "folder:..",
        "folder:~nobody-here",
        "module:",
        "module::",
        "module:os:getcwd",
        "module:a b",
        "module:.",
    ),
    *(
        "torchvision:",
        "torchvision:x",
        "timm:",
        "timm:x",
        "./mine.py:",
        "./mine.py:no",
        "./.py:x",
        "mine.py",
        "~/x.py:y",
    ),
    *("/dev/null", "/dev/full", "~nobody-here", "no/such/file.toml", "r", "r.toml", "class-", "class-99", "balanced"),
    *(
        "--help",
        "--version",
        "--models",
        "--epochs",
        "--no-such",
        "-o",
        "-x",
        "--seeds=",
        "--dry-run",
        "--quick",
        "--out",
    ),
    *("--log-level", "--data-dir", "--criteria=", "--sparsities=0.5", "--workers", "--prunable", "@r.toml", "-h1"),
]

RECIPE: dict[str, Any] = {
    "title": "a title",
    "source": "a source",
    "out": "results",
    "criteria": ["snip", "random"],
    "models": ["lenet-300-100"],
    "data": "digits",
    "sparsities": [0.5, 0.9],
    "seeds": [0, 3],
    "epochs": 1,
    "budget": 1.0,
    "keep-first": False,
    "score_batch": 20,
    "protocol": "short",
    "workers": "auto",
    "variants": ["none", "shuffle"],
    "grid": [{"scope": "global"}, {"lanes": 2, "validation": 0.1}],
}

VALUES: list[Any] = [
    *(0, 1, -1, 2, 10**9, 10**30, -(10**400), 0.0, -0.0, 0.5, 1.0, 1e-300, 1e300, float("nan"), float("inf")),
    *(
        True,
        False,
        "",
        [],
        {},
        [[]],
        [{}],
        [[["a"]]],
        {"a": {"b": [1]}},
        [1, "a"],
        [True],
        ["", ""],
        [0.5, 0.5],
        [None],
    ),
    *WORDS,
]


def mutated(words: list[str], random: Random) -> list[str]:
    """Some words with a few of them changed, left out, doubled or added."""
    words = list(words)
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(words) + 1)
        word = words[place] if place < len(words) else ""
        change = random.randrange(7)
        if change == 0:
            words.insert(place, random.choice(WORDS))
        elif change == 1:
            words[place : place + 1] = [random.choice(WORDS)]
        elif change == 2:
            words[place : place + 1] = []
        elif change == 3:
            words[place : place + 1] = [mutated_text(word, random)]
        elif change == 4:
            words[place : place + 1] = [f"{word}{random.choice([',', ':', '=', ''])}{random.choice(WORDS)}"]
        elif change == 5:
            words.insert(place, word)
        else:
            random.shuffle(words)
        words = words or [""]
    return words


def mutated_text(text: str, random: Random) -> str:
    """A text with a piece left out, doubled or put in."""
    start = random.randrange(len(text) + 1)
    end = min(len(text), start + random.randint(0, 3))
    return text[:start] + random.choice(["", 2 * text[start:end], random.choice(WORDS)]) + text[end:]


def mutated_recipe(random: Random) -> bytes:
    """The file of a recipe of which some keys and values were changed, and perhaps a piece of its text."""
    recipe = {key: value for key, value in RECIPE.items() if random.random() < 0.7}
    for _ in range(random.randint(1, 3)):
        key = random.choice([*RECIPE, random.choice(WORDS), "grids", "Epochs", "learning-rate", "score-batches"])
        value = random.choice(VALUES)
        change = random.randrange(4)
        if change == 0 and isinstance(recipe.get(key), list):
            recipe[key] = [*recipe[key], value]
        elif change == 1 and isinstance(recipe.get(key), str):
            recipe[key] = mutated_text(recipe[key], random)
        elif change == 2:
            recipe["grid"] = [{**random.choice(RECIPE["grid"]), key: value}]
        else:
            recipe[key] = value
    text = "\n".join(f"{written(key)} = {written(value)}" for key, value in recipe.items())
    if random.random() < 0.3:
        text = mutated_text(text, random)
    return text.encode("utf-8", "surrogatepass")


def written(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(key)} = {written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if not isinstance(value, str):
        return "1979-05-27T07:32:00Z" if value is None else str(value)  # there is no nothing, but there are dates
    text = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(one if one >= " " and one != "\x7f" else f"\\u{ord(one):04x}" for one in text) + '"'


MINE = """
import torch
from dataclasses import dataclass
from torch import nn
import pai_bench as pb

@dataclass(frozen=True)
class Mine(pb.Criterion):
    alpha: float = 1.0
    def score(self, model, batch):
        return {name: p.detach().abs() for name, p in pb.prunable_parameters(model).items()}

def net(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

def points():
    return pb.load_data("digits")
"""


@pytest.fixture(autouse=True)
def _nothing_long(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_arguments: object, **_keys: object) -> None:
        raise OSError("no network")

    def not_measured(*_arguments: object) -> float:
        raise ValueError("it is not measured here")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(processes, "can_start", lambda: False)
    monkeypatch.setattr(sweeps, "print_estimate", lambda *_: 0.0)
    monkeypatch.setattr(sweeps, "run_grids", lambda *_: 0)
    monkeypatch.setattr(collapses, "search_all", lambda *_: 0)
    monkeypatch.setattr("pai_bench.analyses.conformance.run_checks", lambda _: iter(()))
    monkeypatch.setattr("pai_bench.analyses.cost.measure_step", not_measured)
    Path("mine.py").write_text(MINE)
    Path("r.toml").write_text('models = "lenet-300-100"\nout = "r"\n')
    store = Store("r", create=True)
    for seed in range(3):
        store.write(drawn("snip", 0.5, seed, 0.9))


@contextmanager
def limited() -> Iterator[None]:
    """A block that may take so many `SECONDS`."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fault(arguments: list[str]) -> str | None:
    """What is wrong with how a command ends; None if nothing is."""
    out, err = io.StringIO(), io.StringIO()
    code: object
    try:
        with limited(), redirect_stdout(out), redirect_stderr(err):
            code = main(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
        return f"{type(error).__name__}: {error} ({place})"
    if code in (0, None) or (code == FAILED and "it is not measured here" in out.getvalue()):
        return None
    lines = err.getvalue().splitlines()
    if code == 2 and len(lines) == 1 and lines[0].startswith("pai-bench"):
        return None
    return f"exit code {code}, {lines}"


def report_of(faults: dict[str, str]) -> str:
    return f"{len(faults)} of {CASES} cases:\n" + "\n".join(
        f"{case[:300]}\n    {why[:500]}" for case, why in faults.items()
    )


@pytest.mark.slow
def test_command_lines_that_are_almost_right() -> None:
    faults = {}
    for seed in range(CASES):
        random = Random(seed)
        arguments = mutated(random.choice(COMMANDS), random)
        if (found := fault(arguments)) is not None:
            faults[f"{seed}: {arguments!r}"] = found
    assert not faults, report_of(faults)


@pytest.mark.slow
def test_recipes_that_are_almost_right() -> None:
    faults = {}
    for seed in range(CASES):
        random = Random(seed)
        Path("fuzz.toml").write_bytes(mutated_recipe(random))
        verb = ["run", "fuzz.toml", "--dry-run"] if random.random() < 0.9 else ["collapse", "fuzz.toml"]
        if (found := fault(verb)) is not None:
            faults[f"{seed}: {verb[0]} {Path('fuzz.toml').read_bytes()!r}"] = found
    assert not faults, report_of(faults)
