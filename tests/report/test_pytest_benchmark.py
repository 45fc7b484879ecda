"""Timings of pytest-benchmark in a report, and files that hold none."""

import json
from pathlib import Path

import pytest

from pai_bench.cli.entry import main
from pai_bench.report import pytest_benchmark
from pai_bench.support.errors import UserError
from tests.report.records import stored
from tests.report.test_pairs import full

pytestmark = pytest.mark.usefixtures("drawings")  # what figures show is tested elsewhere


BENCHMARK = {
    "machine_info": {"cpu": {"brand_raw": "a cpu"}, "system": "Linux", "python_version": "3.12"},
    "commit_info": {"id": "abcdef", "dirty": True},
    "benchmarks": [
        {
            "group": "score",
            "name": "test_snip[cpu]",
            "stats": {"median": 0.25, "iqr": 0.01, "min": 0.2, "rounds": 5},
            "extra_info": {"ratio": 1.09, "device": "CPU", "fast": True},
        }
    ],
}


def test_benchmarks_become_a_part_of_the_report() -> None:
    stored("r", full(seeds=1))
    Path("b.json").write_text(json.dumps(BENCHMARK))
    assert main(["report", "r", "--timings", "b.json", "-o", "x.md"]) == 0
    text = Path("x.md").read_text()
    assert "| score | test_snip[cpu] | 250 ms | 10 ms | 200 ms | 5 | ratio 1.09 |" in text
    assert "a cpu, Linux, Python 3.12; commit abcdef with changes" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "timings b.json cannot be read (No such file or directory)"),
        ("{}", "b.json is not a file of pytest-benchmark (KeyError: 'benchmarks')"),
        ("[]", "b.json is not a file of pytest-benchmark"),
        ('{"benchmarks": [{"name": "x", "stats": {"rounds": 1}}]}', "b.json is not a file of pytest-benchmark"),
        (
            '{"benchmarks": [{"name": "x", "stats": {"median": 1, "iqr": 1, "min": 1, "rounds": "many"}}]}',
            "b.json is not a file of pytest-benchmark (ValueError: a time is no number)",
        ),
    ],
)
def test_bad_timings_are_named(text: str | None, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    stored("r", full(seeds=1))
    if text is not None:
        Path("b.json").write_text(text)
    assert main(["report", "r", "--timings", "b.json"]) == 2
    assert said in capsys.readouterr().err


def test_timings_have_64_mebibytes_at_most() -> None:
    with Path("b.json").open("wb") as file:
        file.truncate(2**26)  # NUL characters
    with pytest.raises(UserError, match="JSONDecodeError"):
        pytest_benchmark.section(Path("b.json"))
    with Path("b.json").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="it has more than 67,108,864 bytes"):
        pytest_benchmark.section(Path("b.json"))
