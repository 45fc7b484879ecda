"""The part of a report about timings by pytest-benchmark."""

import json
from pathlib import Path
from typing import Any

from pai_bench.report import tables
from pai_bench.results.stored import MALFORMED
from pai_bench.results.values import Number, fits
from pai_bench.support import infile
from pai_bench.support.errors import UserError, reason

MOST_BYTES = 2**26
"""Largest size of a file of timings."""

KEYS = ("median", "iqr", "min")


def section(path: Path) -> list[str]:
    """The timings in the file that ``pytest --benchmark-json FILE`` writes, with the machine that they ran on.

    Raises `UserError` if the file cannot be read or is of another format.
    """
    try:
        return described(json.loads(infile.read(path, MOST_BYTES)))
    except OSError as error:
        raise UserError(f"timings {path} cannot be read ({reason(error)})") from error
    except (ValueError, *MALFORMED) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is not a file of pytest-benchmark ({what}); `pytest --benchmark-json FILE` writes one"
        ) from error


def described(content: dict[str, Any]) -> list[str]:
    """The section about the content of a file; raises some error if it is malformed."""
    body = []
    for row in content["benchmarks"]:
        stats, more = row["stats"], row.get("extra_info") or {}
        if not all(fits(stats[key], Number) for key in (*KEYS, "rounds")):
            raise ValueError("a time is no number")
        extra = ", ".join(f"{key} {value:.4g}" for key, value in more.items() if fits(value, Number))
        times = [tables.duration(stats[key]) for key in KEYS]
        body.append([str(row.get("group") or "–"), str(row["name"]), *times, str(stats["rounds"]), extra])
    machine, commit = content.get("machine_info") or {}, content.get("commit_info") or {}
    cpu = (machine.get("cpu") or {}).get("brand_raw") or machine.get("processor") or "unknown processor"
    system = f", {machine['system']}" if machine.get("system") else ""
    where = f"{cpu}{system}, Python {machine.get('python_version', '?')}"
    if commit.get("id"):
        where += f"; commit {commit['id']}{' with changes' if commit.get('dirty') else ''}"
    head = ["group", "benchmark", "median", "IQR", "shortest", "rounds", "also measured"]
    return [
        "## Benchmarks",
        f"Measured by pytest-benchmark ({tables.escaped(where)}): median, interquartile range and shortest round.",
        tables.markdown([head, *sorted(body, key=lambda row: row[:2])]),
    ]
