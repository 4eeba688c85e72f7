"""The wheel holds the whole package and nothing else; the source archive holds what its tests read."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.scripts import ROOT

pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def modules() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "vllm_pensieve").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == modules()
    points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "vllm.general_plugins" in zipfile.ZipFile(wheel).read(points).decode()


def test_the_source_archive_holds_what_the_tests_read(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert modules() <= names
    wanted = {"scripts/setup_env.py", "requirements/cpu.txt", "docs/commands.md", "conftest.py"}
    wanted |= {"benchmarks/attention/command.py", "tests/benchmarks/test_attention.py"}
    assert wanted <= names
    assert not {name for name in names if name.startswith(".ci")}
