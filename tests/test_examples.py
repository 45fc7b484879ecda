"""Examples, and the code and commands in the documentation, work."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pai_bench as pb
from pai_bench.cli.entry import main
from pai_bench.cli.parser import parser
from pai_bench.experiment import recipe
from pai_bench.results import Store
from pai_bench.support.registry import CRITERIA

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(autouse=True)
def _registers_for_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what an example registers be gone after its test."""
    CRITERIA.plugins()  # loads what is installed
    monkeypatch.setattr(CRITERIA, "_plugins", {**CRITERIA._plugins})


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_example_of_an_own_network_runs() -> None:
    example = str(ROOT / "examples" / "own_network.py")
    result = subprocess.run([sys.executable, example], capture_output=True, text=True, env=dict(os.environ))
    assert result.returncode == 0, result.stderr
    for word in ("dense", "snip", "synflow", "random"):
        assert word in result.stdout
    assert main(["report", "results/rings"]) == 0
    assert Path("results/rings/report.md").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documentation_have_flags_that_exist(page: Path) -> None:
    inline = [
        text for text in re.findall(r"`(pai-bench [^`]*)`", page.read_text(encoding="utf-8")) if text.count(" ") > 1
    ]
    for line in [*"\n".join(blocks(page, "sh")).splitlines(), *inline]:
        words = shlex.split(line, comments=True)
        if words[:1] == ["pai-bench"]:
            arguments, unknown = parser().parse_known_args([word for word in words[1:] if word != "..."])
            arguments.parser.refuse(unknown)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_in_the_documentation_are_valid(page: Path) -> None:
    for i, text in enumerate(blocks(page, "toml")):
        Path(f"{i}.toml").write_text(text, encoding="utf-8")
        assert recipe.load(f"{i}.toml").trials


@pytest.mark.parametrize(("page", "name"), [("README.md", "Gradient"), ("docs/writing-a-criterion.md", "Taylor")])
def test_the_criterion_of_a_page_keeps_the_contract(page: str, name: str) -> None:
    """Saved as ``mine.py``, as the page says."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (block,) = (block for block in blocks(ROOT / page, "python") if f"class {name}" in block)
    Path("mine.py").write_text(block, encoding="utf-8")
    assert f"`./mine.py:{name}`" in text
    for criterion in {f"./mine.py:{name}", *re.findall(r"`pai-bench check ([^`]*)`", text)}:
        assert main(["check", criterion]) == 0


def test_the_python_example_of_the_readme_runs() -> None:
    (block,) = (block for block in blocks(ROOT / "README.md", "python") if "pb.prune" in block)
    variables: dict[str, Any] = {}
    exec(block, variables)  # as a reader would
    assert variables["mask"].sparsity == pytest.approx(0.95, abs=1e-5)
    assert list(variables["scores"]) == list(variables["mask"])
    assert sorted(set(variables["frame"].criterion)) == ["dense", "random", "snip"]


def test_training_with_events_in_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks(ROOT / "docs" / "training.md", "python")
    exec(block, {})  # as a reader would
    assert capsys.readouterr().out == "0.950\n"


class Service:
    """In place of TensorBoard and Weights & Biases: notes what runs are given, by the name of the run."""

    def __init__(self, notes: dict[str, list[Any]], name: str) -> None:
        self.notes = notes.setdefault(Path(name).name, [])
        self.summary: dict[str, Any] = {}

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self.notes.append("end")

    def add_text(self, name: str, text: str) -> None:
        self.notes.append((name, text))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.notes.append((name, value, step))

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.notes.extend((name, value, step) for name, value in values.items())

    def finish(self, *, exit_code: int = 0) -> None:
        self.notes.extend([*self.summary.items(), exit_code, "end"])


@pytest.mark.parametrize("name", ["TensorBoardListener", "WandbListener"])
def test_the_listeners_of_the_documentation_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: dict[str, list[Any]] = {}
    writers = SimpleNamespace(SummaryWriter=lambda folder: Service(notes, folder))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writers)
    wandb = SimpleNamespace(init=lambda *, project, name, config, reinit: Service(notes, name))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (block,) = (block for block in blocks(ROOT / "docs" / "extending.md", "python") if f"class {name}" in block)
    variables: dict[str, Any] = {}
    exec(block, variables)  # as a reader would
    records = list(Store("results/watched"))
    assert sorted(notes) == sorted(record.identity for record in records)
    assert len(records) == 2
    for record in records:
        noted = notes[record.identity]
        for epoch in record.training.curve:
            assert ("test_accuracy", epoch.test_accuracy, epoch.epoch) in noted
            assert ("train_loss", epoch.train_loss, epoch.epoch) in noted
        assert ("status", "done") in noted
        assert (("progress", 2, 2) if name == "TensorBoardListener" else ("finished_epochs", 2)) in noted
        assert noted[-1] == "end"
    listener, trial = variables[name]("x"), SimpleNamespace(identity="other", configuration=dict)
    for called in (listener.on_skip, listener.on_start, listener.on_skip):  # a trial may be skipped before it starts
        called(trial)
    assert notes["other"][-1] == "end"
    ended = len(notes["other"])
    listener.on_end()
    assert len(notes["other"]) == ended


def test_the_examples_of_structured_pruning_run() -> None:
    variables: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "structured-pruning.md", "python"):
        exec(block, variables)  # as a reader would, one after the other
    inputs = variables["batch"][0][:5]
    expected = variables["small"](inputs)
    assert all(torch.equal(variables[name](inputs), expected) for name in ("again", "same"))
    assert torch.equal(torch.export.load("small.pt2").module()(inputs), expected)
    assert sum(len(matrix.values()) for matrix in variables["matrices"].values()) == variables["mask"].kept


COOKBOOK = ROOT / "docs" / "cookbook.md"


@pytest.mark.parametrize("block", blocks(COOKBOOK, "python"), ids=lambda block: re.findall(r"class (\w+)", block)[0])
def test_every_criterion_of_the_cookbook_keeps_the_contract(block: str) -> None:
    Path("mine.py").write_text(block, encoding="utf-8")
    (name,) = re.findall(r"^class (\w+)", block, re.MULTILINE)
    assert main(["check", f"./mine.py:{name}"]) == 0
    criterion = pb.get_criterion(f"./mine.py:{name}")
    model = pb.create_model("lenet", input_shape=(1, 28, 28), num_classes=10)
    batch = pb.Batch(torch.randn(20, 1, 28, 28), torch.arange(20) % 10)
    mask = pb.prune(model, batch, criterion, 0.9)
    assert mask.kept == round(0.1 * mask.size)


def test_the_table_of_criteria_in_the_readme() -> None:
    """Its rows are the built-in criteria, with their schedules and modes of batch norm."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented: dict[str, tuple[str, str]] = {}
    for names, _, schedule, mode in rows:
        documented |= {name: (schedule, mode.strip()) for name in re.findall(r"`([a-z0-9-]+)`", names)}
    expected = {}
    for plugin in CRITERIA.plugins():
        if not plugin.module.startswith("pai_criteria."):
            continue
        cuts = plugin.target.schedule.densities(0.05)
        schedule = plugin.target.schedule.name + (f", {len(cuts)} cuts" if len(cuts) > 1 else "")
        expected[plugin.name] = (schedule, plugin.target.bn if plugin.target.uses_data else "–")
    expected["synflow"] = (expected["synflow"][0], "eval")  # always, whatever --bn says
    assert documented == expected


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert set(re.findall(r"\]\(([a-z-]+\.md)\)", index)) == pages


LINKS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("page", LINKS, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        file = (page.parent / target) if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, anchor


def test_the_network_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "models-and-data.md"
    Path("nets.py").write_text(
        next(block for block in blocks(page, "python") if "def small" in block), encoding="utf-8"
    )
    assert "`--models ./nets.py:small`" in page.read_text(encoding="utf-8")
    assert main(["prune", "--model", "./nets.py:small", "--sparsity", "0.9", "--device", "cpu"]) == 0
    assert "snip on small@" in capsys.readouterr().out
