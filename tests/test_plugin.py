"""A package of another author: installed by pip, loaded through its entry point, and tested by ``check``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "examples" / "criterion-package"


def install(tmp_path: Path, name: str) -> Path:
    """Install the example package with pip, with its criterion renamed to `name`. Returns the folder."""
    source, target = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    module = source / "pai_bench_example" / "__init__.py"
    module.write_text(module.read_text().replace('"gradient-magnitude"', f'"{name}"'))
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return target


def pai_bench(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``pai-bench`` in a process that can import what is installed in the folder."""
    command = [sys.executable, "-m", "pai_bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(installed)})


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("plugin"), "gradient-magnitude")


@pytest.mark.slow
def test_an_installed_plugin_is_listed(installed: Path) -> None:
    result = pai_bench(installed, "list", "criteria")
    assert result.returncode == 0, result.stderr
    assert "gradient-magnitude" in result.stdout
    assert "an example" in result.stdout
    assert "snip" in result.stdout


@pytest.mark.slow
def test_an_installed_plugin_is_checked(installed: Path) -> None:
    result = pai_bench(installed, "check", "gradient-magnitude")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "loss-scale" in result.stdout
    assert "failed" not in result.stdout


@pytest.mark.slow
def test_without_the_package_its_criterion_is_unknown(tmp_path: Path) -> None:
    result = pai_bench(tmp_path, "check", "gradient-magnitude")
    assert result.returncode == 2
    assert "unknown criterion 'gradient-magnitude'" in result.stderr


@pytest.mark.slow
def test_a_name_that_is_taken_is_refused_naming_both_modules(tmp_path: Path) -> None:
    installed = install(tmp_path, "snip")
    for arguments in (["list", "criteria"], ["check", "snip"]):
        result = pai_bench(installed, *arguments)
        assert result.returncode == 2
        assert "criterion 'snip' is defined twice: in " in result.stderr
        assert "pai_criteria.snip" in result.stderr
        assert "pai_bench_example" in result.stderr
