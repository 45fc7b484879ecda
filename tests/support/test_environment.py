"""Which devices there are, and what is said of the machine and the code."""

import platform
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pai_bench.support import environment
from pai_bench.support.environment import PACKAGES, commit, describe, processor, select_device
from pai_bench.support.errors import UserError


@pytest.mark.parametrize(
    ("name", "devices", "found"),
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cuda"),
        ("cpu", 1, "cpu"),
        ("cpu:0", 0, "cpu:0"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_devices_that_are_there(name: str, devices: int, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    assert str(select_device(name)) == found


@pytest.mark.parametrize(
    ("name", "devices", "message"),
    [
        ("cuda", 0, "device 'cuda' is not there: this machine has 0 CUDA devices; use --device cpu or auto"),
        ("cuda:1", 1, "device 'cuda:1' is not there: this machine has 1 CUDA device; use"),
        ("cuda:2", 2, "this machine has 2 CUDA devices"),
        ("cuda:256", 2, "device 'cuda:256' is not there: this machine has 2 CUDA devices"),
        ("meta", 1, "device 'meta' is not one of auto, cpu, cuda, cuda:N"),
        ("gpu", 1, "device 'gpu' is not one of"),
        ("cpu:1", 1, "device 'cpu:1' is not one of"),
    ],
)
def test_devices_that_are_not(name: str, devices: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    with pytest.raises(UserError, match=message):
        select_device(name)


def test_what_is_said_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    here = describe(torch.device("cpu"))
    assert list(here) == ["versions", "system", "processor", "threads", "device"]
    assert list(here["versions"]) == ["python", *PACKAGES]
    assert (here["threads"], here["device"], here["processor"]) == (torch.get_num_threads(), "CPU", processor())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA {device.index}")
    there = describe(torch.device("cuda", 1))
    assert (there["device"], there["kernels"]) == ("NVIDIA 1", "deterministic cuDNN")


def test_the_name_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "processor : 0\nmodel name\t: A: fast one\nmodel name : another\n"
    monkeypatch.setattr(Path, "read_text", lambda *_given, **_options: told)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv")
    assert processor.__wrapped__() == "A: fast one"
    told = "processor : 0\n"
    assert processor.__wrapped__() == "riscv"

    def no_file(*_given: Any, **_options: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", no_file)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert processor.__wrapped__() == "arm"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"ls-files": (0, "__init__.py\n"), "rev-parse": (0, "abc\n"), "status": (0, "")}, ("abc", False)),
        ({"ls-files": (0, "__init__.py\n"), "rev-parse": (0, "abc\n"), "status": (0, " M x\n")}, ("abc", True)),
        ({"ls-files": (1, "")}, (None, None)),  # installed inside somebody else's checkout
        ({}, (None, None)),  # without git
    ],
)
def test_the_commit_of_a_checkout(
    answers: dict[str, tuple[int, str]], expected: tuple[str | None, bool | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_options: Any) -> SimpleNamespace:
        if not answers:
            raise FileNotFoundError("git")
        code, said = answers[command[3]]
        return SimpleNamespace(returncode=code, stdout=said)

    monkeypatch.setattr(subprocess, "run", run)
    assert commit.__wrapped__() == expected


def test_the_commit_as_git_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a checkout, of a file that is not in it, as committed, and after a change; new files do not count."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    file = tmp_path / "__init__.py"
    file.write_text("")

    def git(*arguments: str) -> None:
        own = ["-c", "user.name=x", "-c", "user.email=x@y.z", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *own, *arguments], check=True, capture_output=True)

    assert commit.__wrapped__() == (None, None)
    git("init")
    assert commit.__wrapped__() == (None, None)
    git("add", "__init__.py")
    git("commit", "-m", "one")
    (tmp_path / "new").write_text("")
    revision, dirty = commit.__wrapped__()
    assert revision is not None
    assert re.fullmatch("[0-9a-f]{40}", revision)
    assert dirty is False
    file.write_text("changed")
    assert commit.__wrapped__() == (revision, True)
