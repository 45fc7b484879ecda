"""A third party's package: installed by pip, found by its entry point, held to the contract."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "examples" / "criterion-package"


def install(tmp_path: Path, name: str) -> Path:
    """The folder into which pip has installed the example plugin, its criterion called `name`."""
    source, target = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    module = source / "pai_bench_example" / "__init__.py"
    module.write_text(module.read_text().replace('"gradient-magnitude"', f'"{name}"'))
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def pai_bench(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``pai-bench`` in a process of its own, that sees what is installed in a folder."""
    command = [sys.executable, "-m", "pai_bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(installed)})


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("plugin"), "gradient-magnitude")


def test_an_installed_plugin_is_listed(installed: Path) -> None:
    listed = pai_bench(installed, "list", "criteria")
    assert listed.returncode == 0, listed.stderr
    assert "gradient-magnitude" in listed.stdout
    assert "an example" in listed.stdout
    assert "snip" in listed.stdout


def test_an_installed_plugin_is_checked(installed: Path) -> None:
    checked = pai_bench(installed, "check", "gradient-magnitude")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "loss-scale" in checked.stdout
    assert "failed" not in checked.stdout


def test_without_the_package_its_criterion_is_unknown(tmp_path: Path) -> None:
    unknown = pai_bench(tmp_path, "check", "gradient-magnitude")
    assert unknown.returncode == 2
    assert "unknown criterion 'gradient-magnitude'" in unknown.stderr


def test_a_name_that_is_taken_is_refused_naming_both_modules(tmp_path: Path) -> None:
    installed = install(tmp_path, "snip")
    for arguments in (["list", "criteria"], ["check", "snip"]):
        refused = pai_bench(installed, *arguments)
        assert refused.returncode == 2
        assert "criterion 'snip' is defined twice: in " in refused.stderr
        assert "pai_criteria.snip" in refused.stderr
        assert "pai_bench_example" in refused.stderr
