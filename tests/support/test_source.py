"""What of a file a class depends on."""

from pathlib import Path

import pytest

from pai_bench.support.files import digest

FILE = '''\
"""Two criteria."""

import math
from dataclasses import dataclass
from pai_bench.scoring import Criterion

SCALE = 2.0
UNUSED = 3.0
TABLE = {}
TABLE["a"] = 1.0


def helper(w):
    return w * SCALE


def other_helper(w):
    return math.sqrt(w)


@dataclass(frozen=True)
class Base(Criterion):
    def value(self, w):
        return helper(w)


@dataclass(frozen=True)
class First(Base):
    """first"""

    def score(self, model, batch):
        return {name: self.value(w) * TABLE["a"] for name, w in model.weights().items()}


@dataclass(frozen=True)
class Second(Criterion):
    def score(self, model, batch):
        return {name: other_helper(w) for name, w in model.weights().items()}


if __name__ == "__main__":
    print(First())
'''


@pytest.mark.parametrize(
    ("before", "after", "first", "second"),
    [
        ("w * SCALE", "w / SCALE", True, False),  # what a base class calls
        ("SCALE = 2.0", "SCALE = 4.0", True, False),  # and what that uses
        ('TABLE["a"] = 1.0', 'TABLE["a"] = 9.0', True, False),
        ("TABLE = {}", "TABLE = dict()", True, False),
        ("class First(Base)", "class First(Criterion)", True, False),
        ("@dataclass(frozen=True)\nclass First", "@dataclass(frozen=True, kw_only=True)\nclass First", True, False),
        ("math.sqrt", "math.cbrt", False, True),
        ("other_helper(w) for", "abs(other_helper(w)) for", False, True),
        ("UNUSED = 3.0", "UNUSED = 5.0", False, False),
        ("Two criteria", "2 criteria", False, False),
        ("print(First())", "print(Second())", False, False),
        ("\n\nif __name__", "\n\nclass Third(Criterion):\n    pass\n\n\nif __name__", False, False),
        ("import math\n", "import math\n\nmath.seed(3)\n", True, True),  # nobody knows whom it concerns
        ("import math\n", "import math\nfrom pai_bench import *\n", True, True),
        ("import math\n", "import math\n\nfor i in range(3):\n    print(i)\n", True, True),
        ("def helper", "if SCALE:\n    SCALE = 5.0\n\n\ndef helper", True, False),
        ("import math\n", "try:\n    import math\nexcept ImportError:\n    math = None\n", False, True),
    ],
)
def test_an_edit_concerns_those_classes_that_use_what_is_edited(
    before: str, after: str, first: bool, second: bool, tmp_path: Path
) -> None:
    assert FILE.count(before) == 1
    assert (digested(tmp_path, FILE.replace(before, after), "First") != digested(tmp_path, FILE, "First")) == first
    assert (digested(tmp_path, FILE.replace(before, after), "Second") != digested(tmp_path, FILE, "Second")) == second


def digested(folder: Path, text: str, name: str) -> str:
    file = folder / "mine.py"
    file.write_text(text)
    return digest(file, name)


@pytest.mark.parametrize("call", ["globals()['helper']", "eval('helper')", "vars(sys.modules[__name__])['helper']"])
def test_code_that_looks_names_up_depends_on_all_of_its_file(call: str, tmp_path: Path) -> None:
    text = FILE.replace("return helper(w)", f"return {call}(w)")
    edited = text.replace("UNUSED = 3.0", "UNUSED = 5.0")
    assert digested(tmp_path, text, "First") != digested(tmp_path, edited, "First")
    assert digested(tmp_path, text, "Second") == digested(tmp_path, edited, "Second")


def test_a_class_that_no_statement_names_depends_on_all_of_its_file(tmp_path: Path) -> None:
    text = FILE + "\n\nfor name in ('Made',):\n    globals()[name] = First\n"
    edited = text.replace("UNUSED = 3.0", "UNUSED = 5.0")
    assert digested(tmp_path, text, "Made") != digested(tmp_path, edited, "Made")
