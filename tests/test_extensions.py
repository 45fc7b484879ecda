"""Extensions by another package: one file and its entry points, without a change of pai-bench."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pai_bench as pb
from pai_bench.masks import Schedule, get_schedule
from pai_bench.support.registry import INITIALISATIONS, PROTOCOLS, SCHEDULES, protocol, schedule
from pai_bench.training.protocol import Protocol, get_protocol

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"

OTHERS = {
    "criteria": """
from dataclasses import dataclass
from pai_bench import criterion
from pai_bench.scoring import Criterion

@criterion("cube", source="theirs")
@dataclass(frozen=True)
class Cube(Criterion):
    def score(self, model, batch):
        return {name: weight.abs() ** 3 for name, weight in model.weights().items()}
""",
    "models": """
from torch import nn
from pai_bench import model

@model("two-layers", source="theirs")
def two_layers(input_shape, num_classes):
    return nn.Sequential(nn.Linear(input_shape[0], 8), nn.ReLU(), nn.Linear(8, num_classes))
""",
    "data": """
import torch
from pai_bench import DataSet, data_set

@data_set("lines", source="theirs")
def lines(data_dir):
    inputs = torch.arange(240.0).reshape(60, 4) % 7
    return DataSet("lines", (inputs, torch.arange(60) % 3), (inputs, torch.arange(60) % 3))
""",
    "backends": """
from pai_bench import backend
from pai_bench.execution import InProcess
from pai_bench.execution.execution_plan import ExecutionPlan

@backend("slow", source="theirs")
def slow(runner, missing):
    print("missing trials:", len(missing))
    return InProcess(runner, ExecutionPlan())
""",
}
"""Group of entry points -> a module that adds one extension to it; the documentation has examples for the others."""

ENTRY_POINTS = "".join(
    f"[pai_bench.{group}]\ntheirs = {f'their_{group}' if group in OTHERS else 'their_package'}\n"
    for group in ("schedules", "protocols", "initialisations", "metrics", *OTHERS)
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with an installed package: the example of the documentation, and `OTHERS`."""
    (example, *_) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "their_package.py").write_text(example)
    for group, text in OTHERS.items():
        (tmp_path / f"their_{group}.py").write_text(text)
    information = tmp_path / "their_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


QUIET = ("--seeds", "1", "--workers", "1", "--device", "cpu", "--out", "results")


def pai_bench(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``pai-bench`` in a process that can import what is installed in the folder."""
    return python(installed, "-m", "pai_bench", *arguments)


def python(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in such a process."""
    paths = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )


@pytest.mark.slow
def test_a_package_adds_a_schedule_a_protocol_an_initialisation_and_a_metric(installed: Path) -> None:
    listed = pai_bench(installed, "list", "protocols")
    assert "30 epochs, batch 128" in " ".join(listed.stdout.split()), listed.stderr
    which = ["--criteria", "magnitude:score-init=narrow", "--models", "lenet-300-100", "--sparsities", "0.9"]
    how = ["--schedule", "power:steps=3:exponent=3", "--protocol", "ours", "--budget", "0.01", "--init", "narrow"]
    result = pai_bench(installed, "run", *which, *how, *QUIET)
    assert result.returncode == 0, result.stderr
    dense, pruned = (row for _, row in pb.read_results("results").sort_values("sparsity").iterrows())
    assert (pruned.schedule, pruned.init) == ("power:steps=3:exponent=3.0", "narrow")
    assert "1 epoch (3.33 % of the protocol's length), batch 128" in dense.protocol
    assert dense.status == pruned.status == "done"
    code = "import pai_bench.evaluation as e; print(e.get_metric('confidence')[0])"
    assert python(installed, "-c", code).stdout == "confidence\n"


@pytest.mark.slow
def test_a_package_adds_one_of_every_kind(installed: Path) -> None:
    which = ["--criteria", "cube", "--models", "two-layers", "--data", "lines", "--sparsities", "0.5"]
    how = ["--schedule", "power:steps=3", "--protocol", "ours", "--epochs", "1", "--batch-size", "10"]
    how += ["--score-batch", "6", "--init", "narrow", "--backend", "slow"]
    result = pai_bench(installed, "run", *which, *how, *QUIET)
    assert result.returncode == 0, result.stderr
    assert "missing trials: 2" in result.stdout
    frame = pb.read_results("results")
    assert sorted(frame.criterion) == ["cube", "dense"]
    assert set(frame.status) == {"done"}
    assert {(row.data, row.model, row.init) for row in frame.itertuples()} == {("lines", "two-layers", "narrow")}
    code = (
        "import pai_bench as pb; from pai_bench.results import Store;"
        "from pai_bench.evaluation import evaluate_network;"
        "data = pb.load_data('lines'); model = pb.create_model('two-layers', input_shape=(4,), num_classes=3);"
        "store = Store('results'); evaluate_network(store, next(iter(store)).identity, model, data, ['confidence'])"
    )
    measured = python(installed, "-c", code)
    assert measured.returncode == 0, measured.stderr
    assert pb.read_results("results").confidence.between(1 / 3, 1).sum() == 1


@pytest.mark.slow
def test_names_that_are_not_known(installed: Path) -> None:
    """Those of the package are among the suggestions."""
    refused = {
        "--schedule powre": "unknown schedule 'powre': did you mean power?",
        "--protocol our": "unknown protocol 'our': did you mean ours",
        "--init wide": "--init wide is not one of own, vs-x, vs-h, vs, rn, tn, openlth, grasp, narrow",
        "--criteria snip:score-init=x": "snip:score_init=x is not one of trained, redrawn, vs-x, vs-h, vs, rn,",
    }
    code = """import sys
from pai_bench.cli.entry import main
print([main(["run", *words.split(), "--models", "lenet-300-100", "--out", "results"]) for words in sys.argv[1:]])"""
    result = python(installed, "-c", code, *refused)
    assert result.stdout == "[2, 2, 2, 2]\n"
    said = " ".join(result.stderr.split())
    assert [message for message in refused.values() if message not in said] == []


@pytest.fixture
def registered() -> Iterator[None]:
    """Restore the registries after the test."""
    before = {id(registry): dict(registry._plugins) for registry in (SCHEDULES, PROTOCOLS)}
    yield
    for registry in (SCHEDULES, PROTOCOLS):
        registry._plugins = before[id(registry)]


@pytest.mark.usefixtures("registered")
def test_names_come_from_the_registration() -> None:
    @protocol("mine", source="a test")
    def mine() -> Protocol:
        return Protocol(epochs=3, batch_size=7, learning_rate=0.1)

    @schedule("mine", source="a test")
    @dataclass(frozen=True)
    class Mine(Schedule):
        """Half of the sparsity, then all of it."""

        steps: int = 2
        whole: bool = False

        def densities(self, density: float) -> list[float]:
            return [(1 + density) / 2, density]

    assert get_protocol("mine", epochs=5) == Protocol(name="mine", epochs=5, batch_size=7, learning_rate=0.1)
    for original in (Mine(), Mine(whole=True, returns=True)):
        assert get_schedule(str(original)) == original
    assert str(Mine(whole=True, returns=True)) == "mine:steps=2:returns=true:whole=true"
    with pytest.raises(pb.UserError, match=r"protocol 'mine' is defined twice: in tests\.test_extensions and in tests"):
        protocol("mine", source="a test")(mine)
    assert list(INITIALISATIONS) == ["vs-x", "vs-h", "vs", "rn", "tn", "openlth", "grasp"]
    assert "mine" in PROTOCOLS
    assert "gone" not in PROTOCOLS
