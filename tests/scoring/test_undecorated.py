"""Criteria whose options are no fields of a dataclass."""

from pathlib import Path
from typing import Any

import pytest

import pai_bench as pb
from pai_bench.scoring.lookup import load_class

UNDECORATED = """\
from dataclasses import dataclass
from typing import ClassVar
from pai_bench.scoring import Criterion

class Annotated(Criterion):
    alpha: float = 2.0
    def score(self, model, batch): return model.weights()

class Constructed(Criterion):
    def __init__(self, alpha=2.0): self.alpha = alpha
    def score(self, model, batch): return model.weights()

@dataclass(frozen=True)
class Assigned(Criterion):
    def __init__(self, alpha=2.0): self.alpha = alpha
    def score(self, model, batch): return model.weights()

class Plain(Criterion):
    uses_data: ClassVar[bool] = False
    def score(self, model, batch): return model.weights()

class NoCriterion:
    pass
"""

CURE = r"make it a frozen dataclass, @dataclass\(frozen=True\); options are its fields"


def test_options_without_a_dataclass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(UNDECORATED)
    for name in ("Annotated", "Annotated:alpha=3", "Constructed", "Constructed:alpha=3", "Assigned", "NoCriterion"):
        with pytest.raises(pb.UserError, match=CURE):
            pb.get_criterion(f"./mine.py:{name}")
    made: Any = load_class(Path("mine.py").resolve(), "Constructed")(alpha=3)  # type: ignore[call-arg]
    with pytest.raises(pb.UserError, match=f"Constructed has an __init__, but is no dataclass: {CURE}"):
        pb.Sweep(criteria=[made]) and pb.get_criterion(made)
    assert pb.get_criterion("./mine.py:Plain").name.startswith("Plain@")
    Path("thawed.py").write_text(
        "from dataclasses import dataclass\nfrom pai_bench.scoring import Criterion\n"
        "@dataclass\nclass Thawed(Criterion):\n    alpha: float = 1.0\n"
    )
    with pytest.raises(pb.UserError, match=rf"thawed.py does not load: .*{CURE} \(thawed.py, line 3, in <module>\)"):
        pb.get_criterion("./thawed.py:Thawed")
    with pytest.raises(pb.UserError, match=r"a name or an instance of Criterion, .*; give SNIP\(\)"):
        pb.get_criterion(type(pb.get_criterion("snip")))  # type: ignore[arg-type]
