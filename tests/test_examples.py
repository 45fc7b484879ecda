"""What examples and documentation show works."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pai_bench import recipe
from pai_bench.arguments import parser
from pai_bench.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code of a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_of_an_own_network_runs() -> None:
    example = str(ROOT / "examples" / "own_network.py")
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    for word in ("dense", "snip", "synflow", "random"):
        assert word in done.stdout
    assert main(["report", "results/rings"]) == 0
    assert Path("results/rings/report.md").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documentation_have_flags_that_exist(page: Path) -> None:
    for line in "\n".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["pai-bench"]:
            given, rest = parser().parse_known_args([word for word in words[1:] if word != "..."])
            given.parser.refuse(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_in_the_documentation_are_valid(page: Path) -> None:
    for i, text in enumerate(blocks(page, "toml")):
        Path(f"{i}.toml").write_text(text, encoding="utf-8")
        assert recipe.load(f"{i}.toml").trials
