"""The part of a report about what pytest-benchmark has measured."""

import json
from pathlib import Path
from typing import Any

from pai_bench.errors import UserError
from pai_bench.report import tables

KEYS = ("median", "iqr", "min")


def section(path: Path) -> list[str]:
    """Benchmarks in the file that ``pytest --benchmark-json FILE`` writes, with the machine that they ran on."""
    found = read(path)
    body = []
    for one in sorted(found["benchmarks"], key=lambda one: (one.get("group") or "", one["name"])):
        extra = ", ".join(f"{key} {value:.4g}" for key, value in one.get("extra_info", {}).items() if is_number(value))
        times = [tables.duration(one["stats"][key]) for key in KEYS]
        body.append([one.get("group") or "–", one["name"], *times, str(one["stats"]["rounds"]), extra])
    machine, commit = found.get("machine_info", {}), found.get("commit_info", {})
    cpu = machine.get("cpu", {}).get("brand_raw") or machine.get("processor") or "unknown processor"
    lines = [f"{cpu}, {machine.get('system', '')}, Python {machine.get('python_version', '?')}"]
    if commit.get("id"):
        lines.append(f"commit {commit['id']}{' with changes' if commit.get('dirty') else ''}")
    return [
        "## Benchmarks",
        f"Measured by pytest-benchmark ({'; '.join(lines)}): median, interquartile range and shortest of some rounds.",
        tables.markdown([["group", "benchmark", "median", "IQR", "shortest", "rounds", "also measured"], *body]),
    ]


def read(path: Path) -> dict[str, Any]:
    """The content of the file, or an error that names it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for one in found["benchmarks"]:
            if not (isinstance(one["name"], str) and one["stats"]["rounds"] > 0):
                raise ValueError("no name, or no rounds")
            if not all(is_number(one["stats"][key]) for key in KEYS):
                raise ValueError("a time is no number")
        return dict(found)
    except OSError as error:
        raise UserError(f"timings {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is not a file of pytest-benchmark ({what}); `pytest --benchmark-json FILE` writes one"
        ) from error


def is_number(value: object) -> bool:
    """Whether a value is a number, and not a truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
