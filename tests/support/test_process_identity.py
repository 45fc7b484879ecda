"""Whether a process has ended: by its number, its start, and the machine and container that it is of."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pai_bench.support.process_identity import has_ended, start_of, this_process

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def child() -> subprocess.Popen[bytes]:
    return subprocess.Popen(SLEEP)


def test_a_process_has_ended_when_it_is_a_zombie_and_after(child: subprocess.Popen[bytes]) -> None:
    process = dataclasses.replace(this_process(), pid=child.pid, start=start_of(child.pid) or "")
    assert not has_ended(process)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(process)  # although nobody has asked for its exit code
    child.wait()
    assert has_ended(process)


def test_a_number_that_another_process_has_now() -> None:
    assert not has_ended(this_process())
    assert has_ended(dataclasses.replace(this_process(), start="1"))


@pytest.mark.parametrize("change", [{"boot": "x"}, {"namespace": "x"}, {"boot": ""}, {"namespace": ""}, {"start": ""}])
def test_of_a_process_elsewhere_nothing_is_known(change: dict[str, Any]) -> None:
    ended = dataclasses.replace(this_process(), start="1")
    assert not has_ended(dataclasses.replace(ended, **change))


def test_a_process_that_the_system_hides_has_not_ended(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mounted with ``hidepid``, /proc does not show those of other users."""

    def hidden(_path: Path) -> bytes:
        raise FileNotFoundError

    process = dataclasses.replace(this_process(), pid=child.pid, start=start_of(child.pid) or "")
    monkeypatch.setattr(Path, "read_bytes", hidden)
    assert not has_ended(process)
    assert not has_ended(dataclasses.replace(process, pid=2**70))
    child.kill()
    child.wait()
    assert has_ended(process)


def test_another_view_of_processes_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, /proc may be the machine's; elsewhere, there is none."""
    monkeypatch.setattr(os, "readlink", lambda _path: "1")
    assert (this_process().boot, this_process().namespace) == ("", "")
