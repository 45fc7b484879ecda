"""Random changes of the code: what is changed and what never is, which tests are asked, and who survives."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mutations
from benchmarks.mutations import Change, changes, check_reached, concerned_by, draw, judge, table
from benchmarks.reached import Reached

SOURCE = b'''"""Docstring 1 < 2."""

LIMIT: "Literal[1, 2]" = 3

if TYPE_CHECKING:
    print(1)


class Sums:
    def least(self, a: int = 0, b: float = -1.5) -> "int":
        """Less than 3."""
        if a < b and not self:
            raise ValueError(f"{a + 1} is too small \xc3\xa4")
        return a + b if a else LIMIT

    def note(self, flag=True):
        self.seen += 1
        print(flag, *zip(flag, strict=True))
'''


def test_what_is_changed_and_what_is_not() -> None:
    found = [(change.line, change.function, str(change)) for change in changes("a.py", SOURCE)]
    assert found == [
        (3, "", "3 -> 4"),
        (10, "", "0 -> 1"),
        (10, "", "-1.5 -> +1.5"),
        (10, "", "1.5 -> 2.5"),
        (12, "Sums.least", "a < b and not self -> not (a < b and (not self))"),
        (12, "Sums.least", "a < b and not self -> a < b or not self"),
        (12, "Sums.least", "a < b -> a <= b"),
        (12, "Sums.least", "a < b -> a >= b"),
        (12, "Sums.least", "not self -> (self)"),
        (13, "Sums.least", 'raise ValueError(f"{a + 1} is too small ä") -> pass'),
        (14, "Sums.least", "a -> not (a)"),
        (14, "Sums.least", "a + b -> a - b"),
        (16, "", "True -> False"),
        (17, "Sums.note", "self.seen += 1 -> pass"),
        (17, "Sums.note", "1 -> 2"),
        (18, "Sums.note", "print(flag, *zip(flag, strict=True)) -> pass"),
    ]


def test_nothing_else_of_the_source_is_touched() -> None:
    for change in changes("a.py", SOURCE):
        lines = change.apply(SOURCE).splitlines()
        differ = [i for i, (one, other) in enumerate(zip(lines, SOURCE.splitlines(), strict=True), 1) if one != other]
        assert differ == [change.line]
        compile(change.apply(SOURCE), "a.py", "exec")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project of one function, and two tests of it, of which one sees little."""
    files = {
        "pai_bench/__init__.py": "",
        "pai_bench/most.py": "def most(a, b):\n    return a if a > b else b\n\n\ndef idle():\n    return 1\n",
        "tests/test_some.py": "from pai_bench.most import most\n\n\ndef test_one():\n    assert most(1, 2) == 2\n\n\n"
        "def test_two():\n    assert most(2, 1) > 0\n\n\ndef test_none():\n    pass\n",
        "pyproject.toml": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "benchmarks").mkdir()
    for name in ("__init__.py", "reached.py"):
        shutil.copy(Path(mutations.__file__).with_name(name), tmp_path / "benchmarks")
    return tmp_path


@pytest.mark.slow
def test_a_survivor_is_reported_and_the_tree_left_as_it_was(tree: Path) -> None:
    plugin = ["-p", "benchmarks.reached", "--reached", str(tree / "reached.json")]
    assert mutations.run_tests(tree, plugin)[0] == 0
    reached: Reached = json.loads((tree / "reached.json").read_text())
    assert {name: facts["functions"] for name, facts in reached.items()} == {
        "tests/test_some.py::test_one": ["pai_bench/most.py:most"],
        "tests/test_some.py::test_two": ["pai_bench/most.py:most"],
        "tests/test_some.py::test_none": [],
    }
    source = (tree / "pai_bench" / "most.py").read_bytes()
    drawn = draw(tree, 99, 0)
    assert [str(change) for change in drawn] == ["a > b -> a >= b", "a > b -> a <= b", "1 -> 2"]
    rows = [(change, judge(change, tree, reached)) for change in drawn]
    assert [caught.partition("::")[2] for _, caught in rows] == ["", "test_one", ""]
    assert (tree / "pai_bench" / "most.py").read_bytes() == source
    assert table(rows).splitlines() == [
        "3 changes: 1 caught, 2 survived",
        "",
        "| file | line | change | caught by |",
        "| --- | ---: | --- | --- |",
        "| pai_bench/most.py | 2 | `a > b -> a >= b` | **survived** |",
        "| pai_bench/most.py | 6 | `1 -> 2` | **survived** |",
        "| pai_bench/most.py | 2 | `a > b -> a <= b` | tests/test_some.py::test_one |",
    ]


@pytest.mark.slow
def test_a_test_that_does_not_end_has_found_the_change(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutations, "PATIENCE", 2)
    source = (tree / "pai_bench" / "most.py").read_bytes()
    start = source.index(b"a if")
    endless = Change("pai_bench/most.py", 2, start, start + 1, "a", "max(iter(int, 1))", "most")
    place = {"seconds": 0.1, "functions": ["pai_bench/most.py:most"]}
    assert judge(endless, tree, {"tests/test_some.py::test_two": place}) == "time limit"


def test_which_tests_are_asked(tree: Path) -> None:
    reached: Reached = {
        "tests/test_x.py::test_slow": {"seconds": 2.0, "functions": ["pai_bench/a.py:f"]},
        "tests/test_x.py::test_quick": {"seconds": 1.0, "functions": ["pai_bench/a.py:f", "pai_bench/a.py:g"]},
        "tests/test_a.py::test_named": {"seconds": 3.0, "functions": []},
        "tests/test_y.py::test_other": {"seconds": 0.0, "functions": ["pai_bench/ab.py:f"]},
        "tests/test_z.py::test_importing": {"seconds": 4.0, "functions": []},
        "tests/test_w.py::test_walking": {"seconds": 5.0, "functions": []},
    }
    texts = {
        "x": "",
        "a": "",
        "y": "from pai_bench.a_b import c",
        "z": "from pai_bench import a, b",
        "w": "pkgutil.walk_packages",
    }
    for name, text in texts.items():
        (tree / "tests" / f"test_{name}.py").write_text(text)

    def asked(function: str) -> list[str]:
        change = Change("pai_bench/a.py", 1, 0, 1, "1", "2", function)
        return [name.partition("::test_")[2] for name in concerned_by(change, tree, reached)]

    assert asked("f") == ["quick", "slow", "named"]
    assert asked("g") == ["quick", "named"]
    assert asked("") == asked("run_by_its_import") == ["quick", "slow", "named", "importing", "walking"]


def test_tests_that_are_no_longer_there_catch_nothing(tree: Path) -> None:
    facts: dict[str, Any] = {"seconds": 1.0, "functions": []}
    there = {"tests/test_some.py::test_one": facts}
    check_reached(Path("reached.json"), there, tree)
    with pytest.raises(SystemExit, match=r"reached.json names tests that are not in this project: remove it"):
        check_reached(Path("reached.json"), there | {"tests/test_some.py::test_gone": facts}, tree)


def test_the_same_seed_draws_the_same(tree: Path) -> None:
    assert draw(tree, 2, 1) == draw(tree, 2, 1)
    assert len({tuple(draw(tree, 2, seed)) for seed in range(20)}) == 3
    assert not draw(tree, 2, 1, "criteria/*")


def test_a_copy_has_every_room_but_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    for folder in (
        "pai_bench/results",
        "tests/reports",
        "results",
        "build",
        ".git",
        "criteria/pai_criteria/__pycache__",
    ):
        (project / folder).mkdir(parents=True)
        (project / folder / "a.py").touch()
    monkeypatch.setattr(mutations, "ROOT", project)
    tree = mutations.copied(str(tmp_path))
    found = {path.parent.relative_to(tree).as_posix() for path in tree.rglob("a.py")}
    assert found == {"pai_bench/results", "tests/reports"}
