"""All that a bare machine needs for a run, in one folder."""

import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.data import CIFAR10, MNIST, PARTS, VARIABLE
from benchmarks.gpu.runner import STAGES

LARGEST = 60 * 2**20
"""Bytes of the folder at most."""

PREVIOUS, COMMIT = "previous", "commit.json"

THERE = ("--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp")
"""What a package is downloaded for."""

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")

COMMAND = """\
python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target /tmp/site {folder}/*.whl
export PYTHONPATH=/tmp/site:$PWD
python3 -m benchmarks.gpu --minutes 8 --data {folder} --out OUT --resume {folder}/previous
"""


class PackError(Exception):
    """The folder cannot be made; the message says why, and what helps."""


def pack(folder: Path, data: Path | None, resume: Path | None = None, packages: Sequence[str] = ()) -> str:
    """Put the wheel, wheels of `packages`, gzipped MNIST and the archive of CIFAR-10's images into a folder.

    And the archives of an earlier run. Returns the commands for the machine that has the GPU.
    """
    data = data or (Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None)
    if data is None:
        raise PackError(f"say where MNIST and CIFAR-10 are, with --data or {VARIABLE}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PREVIOUS).mkdir(exist_ok=True)
    pack_data(data, folder)
    for name in STAGES:
        if resume is not None and (resume / f"{name}.tar").exists():
            shutil.copyfile(resume / f"{name}.tar", folder / PREVIOUS / f"{name}.tar")
    for old in folder.glob("pai_bench-*.whl"):
        old.unlink()
    pack_wheels(folder, packages)
    (folder / COMMIT).write_text(json.dumps(checkout()), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LARGEST:
        raise PackError(f"{folder} has {size / 2**20:.1f} MiB, more than {LARGEST / 2**20:.0f}; take something out")
    return f"{folder}: {size / 2**20:.1f} MiB. Where the GPU is, in a checkout:\n\n{COMMAND.format(folder=folder)}"


def pack_data(data: Path, folder: Path) -> None:
    """Compressed files of MNIST, and the archive of CIFAR-10's images."""
    for path in [*(data / MNIST / name for name in PARTS), data / CIFAR10]:
        if not path.is_file():
            raise PackError(f"{path} is not there")
    (folder / MNIST).mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        target = folder / MNIST / f"{name}.gz"
        if not target.exists():
            target.write_bytes(gzip.compress((data / MNIST / name).read_bytes(), mtime=0))
    if not (folder / CIFAR10).exists():
        shutil.copyfile(data / CIFAR10, folder / CIFAR10)


def pack_wheels(folder: Path, packages: Sequence[str]) -> None:
    """The wheel of this checkout, built with what is installed here if that will do, and those of `packages`."""
    here = [] if importlib.util.find_spec("hatchling") is None else ["--no-build-isolation"]
    pip("wheel", "--no-deps", *here, "--wheel-dir", str(folder), str(root()))
    if packages:
        there = [*THERE, *(word for name in PLATFORMS for word in ("--platform", name))]
        pip("download", "--no-deps", *there, "--dest", str(folder), *packages)


def pip(*arguments: str) -> None:
    """Run pip, or say what it says."""
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise PackError(f"pip {arguments[0]} failed: {lines[-1] if lines else done.returncode}")


def root() -> Path:
    """The checkout that this file is in."""
    return Path(__file__).parents[2]


def checkout() -> dict[str, Any]:
    """Commit of the checkout, and whether it was changed since."""
    from pai_bench.support.environment import commit

    revision, dirty = commit()
    return {"commit": revision, "dirty": dirty}


def provenance(data: Path | None, arguments: Sequence[str]) -> dict[str, Any]:
    """What a run's records say of where they come from: the packed commit, or that of this checkout."""
    from pai_bench.support.environment import without_paths

    packed = data / COMMIT if data is not None else None
    known = json.loads(packed.read_text(encoding="utf-8")) if packed and packed.is_file() else checkout()
    words = " ".join(without_paths(word) for word in arguments)
    return {"command": f"python -m benchmarks.gpu {words}", **known}
