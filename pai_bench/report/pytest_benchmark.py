"""The part of a report about what pytest-benchmark has measured."""

import json
from pathlib import Path
from typing import Any

from pai_bench.report import tables
from pai_bench.results.stored import MALFORMED
from pai_bench.results.values import Number, fits
from pai_bench.support import infile
from pai_bench.support.errors import UserError

LONGEST = 2**26
"""Bytes that a file of benchmarks may have."""

KEYS = ("median", "iqr", "min")


def section(path: Path) -> list[str]:
    """Benchmarks in the file that ``pytest --benchmark-json FILE`` writes, with the machine that they ran on."""
    try:
        return described(json.loads(infile.read(path, LONGEST)))
    except OSError as error:
        raise UserError(f"timings {path} cannot be read ({error.strerror or error})") from error
    except (ValueError, *MALFORMED) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is not a file of pytest-benchmark ({what}); `pytest --benchmark-json FILE` writes one"
        ) from error


def described(found: dict[str, Any]) -> list[str]:
    """The section of what the file holds; some error if it does not hold that."""
    body = []
    for one in sorted(found["benchmarks"], key=lambda one: (str(one.get("group") or "–"), str(one["name"]))):
        stats, also = one["stats"], one.get("extra_info") or {}
        if not all(fits(stats[key], Number) for key in (*KEYS, "rounds")):
            raise ValueError("a time is no number")
        extra = ", ".join(f"{key} {value:.4g}" for key, value in also.items() if fits(value, Number))
        times = [tables.duration(stats[key]) for key in KEYS]
        body.append([str(one.get("group") or "–"), str(one["name"]), *times, str(stats["rounds"]), extra])
    machine, commit = found.get("machine_info") or {}, found.get("commit_info") or {}
    cpu = (machine.get("cpu") or {}).get("brand_raw") or machine.get("processor") or "unknown processor"
    known = [cpu, *([machine["system"]] if machine.get("system") else [])]
    lines = [", ".join([*map(str, known), f"Python {machine.get('python_version', '?')}"])]
    if commit.get("id"):
        lines.append(f"commit {commit['id']}{' with changes' if commit.get('dirty') else ''}")
    where = tables.escaped("; ".join(lines))
    return [
        "## Benchmarks",
        f"Measured by pytest-benchmark ({where}): median, interquartile range and shortest of some rounds.",
        tables.markdown([["group", "benchmark", "median", "IQR", "shortest", "rounds", "also measured"], *body]),
    ]
