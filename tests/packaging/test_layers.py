"""The contracts in pyproject.toml about which part of the package may import which."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.scripts import ROOT


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts for the package in that folder."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_package_keeps_its_contracts():
    checked = lint_imports(ROOT)
    assert checked.returncode == 0, checked.stdout
    assert "0 broken" in checked.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("space/sessions.py", "import vllm_pensieve.scheduler", "Imports point down"),
        ("errors.py", "def f():\n    import vllm_pensieve.config", "Imports point down"),
        ("analysis/report.py", "import vllm_pensieve.bench", "Only commands import the benchmarks"),
        ("selfcheck/checks.py", "import vllm_pensieve.bench", "Only commands import"),
        ("vllm_hooks/reasons.py", "import vllm_pensieve", "Nothing imports the package's root"),
        ("trace/trace.py", "import torch", "Decisions and offline tools need no vLLM"),
    ],
)
def test_an_import_that_points_up_breaks_a_contract(tmp_path, file, line, broken):
    broken_package(tmp_path, file, line)
    checked = lint_imports(tmp_path)
    assert checked.returncode == 1
    assert any(
        told.startswith(broken) and "BROKEN" in told for told in checked.stdout.splitlines()
    ), checked.stdout


def test_a_part_without_a_place_among_the_layers_is_refused(tmp_path):
    broken_package(tmp_path, "attic.py", "")
    checked = lint_imports(tmp_path)
    assert checked.returncode == 1 and "attic" in checked.stdout


def broken_package(folder: Path, file: str, line: str) -> None:
    """A copy of the package and its contracts, with a line more in one of its files."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "vllm_pensieve", folder / "vllm_pensieve", ignore=ignored)
    with (folder / "vllm_pensieve" / file).open("a", encoding="utf-8") as more:
        more.write(f"\n\n{line}\n")
