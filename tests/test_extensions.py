"""What another package adds: one file and its entry points, without an edit elsewhere."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pai_bench as pb
from pai_bench.pruning import Schedule, get_schedule
from pai_bench.support.registry import INITIALISATIONS, PROTOCOLS, SCHEDULES, protocol, schedule
from pai_bench.training.protocol import Protocol, get_protocol

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"

ENTRY_POINTS = "".join(
    f"[pai_bench.{group}]\ntheirs = their_package\n"
    for group in ("schedules", "protocols", "initialisations", "metrics")
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with an installed package of one module, the example of the documentation."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "their_package.py").write_text(example)
    information = tmp_path / "their_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


QUIET = ("--seeds", "1", "--workers", "1", "--device", "cpu", "--out", "results")


def pai_bench(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``pai-bench`` in a process of its own, that sees what is installed in a folder."""
    return python(installed, "-m", "pai_bench", *arguments)


def python(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in such a process."""
    paths = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )


def test_a_package_adds_a_schedule_a_protocol_an_initialisation_and_a_metric(installed: Path) -> None:
    listed = pai_bench(installed, "list", "protocols")
    assert "30 epochs, batch 128" in " ".join(listed.stdout.split()), listed.stderr
    which = ["--criteria", "magnitude:score-init=narrow", "--models", "lenet-300-100", "--sparsities", "0.9"]
    how = ["--schedule", "power:steps=3:exponent=3", "--protocol", "ours", "--budget", "0.01", "--init", "narrow"]
    done = pai_bench(installed, "run", *which, *how, *QUIET)
    assert done.returncode == 0, done.stderr
    dense, pruned = (row for _, row in pb.read_results("results").sort_values("sparsity").iterrows())
    assert (pruned.schedule, pruned.init) == ("power:steps=3:exponent=3.0", "narrow")
    assert "1 epoch (3.33 % of the protocol's length), batch 128" in dense.protocol
    assert dense.status == pruned.status == "done"
    code = "import pai_bench.evaluation as e; print(e.get_metric('confidence')[0])"
    assert python(installed, "-c", code).stdout == "confidence\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--schedule", "powre"], "unknown schedule 'powre': did you mean power?"),
        (["--protocol", "our"], "unknown protocol 'our': did you mean ours"),
        (["--init", "wide"], "--init wide is not one of own, vs-x, vs-h, vs, rn, tn, openlth, grasp, narrow"),
        (["--criteria", "snip:score-init=x"], "snip:score_init=x is not one of trained, redrawn, vs-x, vs-h, vs, rn,"),
    ],
)
def test_names_that_are_not_known(installed: Path, arguments: list[str], message: str) -> None:
    refused = pai_bench(installed, "run", *arguments, "--models", "lenet-300-100", "--out", "results")
    assert refused.returncode == 2
    assert message in " ".join(refused.stderr.split())


@pytest.fixture
def registered() -> Iterator[None]:
    """The registries as they were, afterwards."""
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
        """Half of it, then all."""

        steps: int = 2
        whole: bool = False

        def densities(self, density: float) -> list[float]:
            return [(1 + density) / 2, density]

    assert get_protocol("mine", epochs=5) == Protocol(name="mine", epochs=5, batch_size=7, learning_rate=0.1)
    for one in (Mine(), Mine(whole=True, returns=True)):
        assert get_schedule(str(one)) == one
    assert str(Mine(whole=True, returns=True)) == "mine:steps=2:returns=true:whole=true"
    with pytest.raises(pb.UserError, match=r"protocol 'mine' is defined twice: in tests\.test_extensions and in tests"):
        protocol("mine", source="a test")(mine)
    assert list(INITIALISATIONS) == ["vs-x", "vs-h", "vs", "rn", "tn", "openlth", "grasp"]
    assert "mine" in PROTOCOLS
    assert "gone" not in PROTOCOLS
