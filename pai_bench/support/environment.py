"""Where a result came from: versions, machine, commit. Nothing that names a path of the machine."""

import functools
import platform
import re
import shlex
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = ("pai-bench", "torch", "torchvision", "numpy")

HARMLESS = (
    "Attempting to run cuBLAS, but there was no current CUDA context",  # in the first backward pass: torch makes one
    "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled",  # as --precision says
)
"""How warnings of torch begin that do not concern users."""


def ignore_harmless_warnings() -> None:
    """Show none of the `HARMLESS` warnings in this process, which runs nothing but pai-bench."""
    for message in HARMLESS:
        warnings.filterwarnings("ignore", re.escape(message))


def select_device(name: str) -> "torch.device":
    """The device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, if it is there."""
    import torch

    from pai_bench.support.errors import UserError

    name = str(name)  # a torch.device is taken, too
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (match := re.fullmatch(r"cpu(?::0)?|(?P<cuda>cuda)(?::(?P<index>0|[1-9]\d*))?", name)) is None:
        raise UserError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N")
    if match["cuda"] and int(match["index"] or 0) >= (present := torch.cuda.device_count()):
        devices = f"{present} CUDA device{'s' * (present != 1)}"
        raise UserError(f"device {name!r} is not there: this machine has {devices}; use --device cpu or auto")
    return torch.device(name)


def devices_of(name: str) -> list[str]:
    """The devices among which workers are divided: all GPUs of the machine for ``auto`` or ``cuda``, if it has some."""
    import torch

    if select_device(name) == torch.device("cuda"):
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [name]


def describe(device: "torch.device") -> dict[str, Any]:
    """Versions, operating system, processor, threads and accelerator, and how an accelerator is held to one result."""
    import torch

    return {
        "versions": dict(versions()),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        **({"kernels": "deterministic cuDNN"} if device.type == "cuda" else {}),
    }


@functools.cache
def versions() -> Mapping[str, str]:
    """Of Python and of the packages that results depend on, which are read once: each is a file."""
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in PACKAGES}}


@functools.cache
def processor() -> str:
    """The name of the processor, as far as the system knows it."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if name := re.search(r"^model name.*?:(.*)$", text, re.MULTILINE):
            return name[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout that pai-bench runs from and whether it was changed since; None when installed."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            git_command = ["git", "-C", str(folder), *arguments]
            done = subprocess.run(git_command, capture_output=True, text=True, check=False, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))


def without_paths(text: str) -> str:
    """`text` with every absolute, home or parent path shortened to its last part."""
    path = r"(?<![\w./])(?:~|(?:\./)?(?:\.\./)+|(?=/)(?!//))[^\s:=,'\"()]*"
    return re.sub(path, lambda match: PurePath(match[0]).name or match[0], text)


def command(arguments: Sequence[str]) -> str:
    """A command line as it may be shown; in an argument, a path may hold spaces."""
    paths = r"(?:^|(?<=[:=,]))(?:/|~|(?:\./)?\.\./)[^:=,]*"
    shown = (re.sub(paths, lambda match: PurePath(match[0]).name or match[0], argument) for argument in arguments)
    return shlex.join(["pai-bench", *shown])
