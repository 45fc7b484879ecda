"""What the verbs print on a terminal, colours included, as it was last agreed to, in ``printed.txt``.

Numbers are left out where they differ between machines. A change that is meant: ``python -m tests.cli.test_printed``
writes the file again.
"""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pai_bench.cli.entry import main
from tests.cli.terminal import Terminal

PRINTED = Path(__file__).with_name("printed.txt")

QUICK = ("--quick", "--models", "lenet-300-100", "--device", "cpu", "--workers", "1", "--lanes", "1")

COMMANDS = (
    *(("list", kind) for kind in ("criteria", "models", "data", "schedules", "protocols", "initialisations")),
    *(("list", kind) for kind in ("metrics", "backends", "recipes")),
    ("run", *QUICK, "--criteria", "random,magnitude", "--dry-run"),
    ("run", *QUICK, "--criteria", "random,magnitude", "--sparsities", "0.5"),
    ("run", *QUICK, "--criteria", "random,magnitude", "--sparsities", "0.5", "--dry-run"),
    ("run", *QUICK, "--criteria", "random,magnitude", "--sparsities", "0.5"),
    ("report", "results"),
    ("report", "results", "-o", "r.html"),
    ("compare", "results", "results"),
    ("prune", "--model", "lenet-300-100", "--criterion", "magnitude", "--sparsity", "0.9", "-o", "m.safetensors"),
    ("check", "magnitude"),
    ("check", "./wrong.py:Wrong"),
)

WRONG = """
from pai_bench import Criterion

class Wrong(Criterion):
    def score(self, model, batch):
        return {}
"""


def printed() -> Iterator[str]:
    """What each command prints, in an empty folder that is the current one."""
    Path("wrong.py").write_text(WRONG)
    for command in COMMANDS:
        terminal, out, said = Terminal(), io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            code = main(list(command))
        terminal.write(out.getvalue())
        text = str(terminal) + said.getvalue()
        yield f"$ pai-bench {' '.join(command)}\n{text if command[0] == 'list' else plain(text)}exit code {code}\n"


def plain(text: str) -> str:
    """A text without the numbers that differ between machines, and without the widths that follow from them."""
    text = re.sub(r"(?<![\w.<;-])[-+]?\d[\d,.]*(?:e[-+]?\d+)?(?: (?:[mµ]?s|min|h|B|[KMG]iB|[kMG]B)\b)?", "0", text)
    return re.sub(r"[━─╇┃│]{2,}", "──", re.sub(r" {2,}", " ", text))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wide one with colours."""
    monkeypatch.chdir(tmp_path)
    for name, value in LOOKS.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)


LOOKS = {"FORCE_COLOR": "1", "COLUMNS": "160", "COLORTERM": "truecolor"}


@pytest.mark.usefixtures("terminal")
def test_the_verbs_print_what_they_did() -> None:
    assert "\n".join(printed()) == PRINTED.read_text(encoding="utf-8")


if __name__ == "__main__":
    os.environ |= LOOKS
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        found = "\n".join(printed())
    PRINTED.write_text(found, encoding="utf-8")
