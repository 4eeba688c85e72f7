"""The set-up script: what it refuses, when it has nothing to do, what it says when a step fails."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.packaging.scripts import ROOT, load

setup_env = load("setup_env")
setup_steps = load("setup_steps")
setup_indexes = load("setup_indexes")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the set-up reads, with a .venv that holds nothing but a Python."""
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("version = 3.11.7\n")
    return tmp_path


def mark_done(checkout: Path, level: str) -> None:
    (checkout / ".venv" / f".setup-{level}").write_text(setup_steps.fingerprint(checkout, level))


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_supported_pythons_are_taken(minor: int) -> None:
    assert setup_env.python_problem(3, minor, "python3") == ""


@pytest.mark.parametrize("minor", [6, 10, 15])
def test_other_pythons_are_refused_with_both_versions_and_a_way_out(minor: int) -> None:
    problem = setup_env.python_problem(3, minor, "python3")
    assert f"vLLM needs Python 3.11 to 3.14; python3 is Python 3.{minor}." in problem
    assert "make PYTHON=python3." in problem


def test_too_little_disk_is_refused_with_what_is_needed_and_what_is_free(tmp_path: Path) -> None:
    setup_steps.check_disk(tmp_path, needed_gib=0.0)
    with pytest.raises(
        setup_steps.SetupError, match=r"needs 1000000\.0 GiB .* GiB are free"
    ) as error:
        setup_steps.check_disk(tmp_path, needed_gib=1e6)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "riscv64")])
def test_other_platforms_are_refused(system: str, machine: str) -> None:
    setup_steps.check_platform("Linux", "x86_64")
    with pytest.raises(setup_steps.SetupError, match=f"this is {system} on {machine}"):
        setup_steps.check_platform(system, machine)


@pytest.mark.parametrize("level", ["cpu", "dev"])
def test_the_second_run_does_nothing_and_is_quick(checkout: Path, level: str) -> None:
    mark_done(checkout, level)
    target = {"cpu": "setup", "dev": "setup-dev"}[level]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    started = time.monotonic()
    done = subprocess.run(
        ["make", "--no-print-directory", target],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 2


def test_what_the_tests_need_includes_what_the_package_needs(checkout: Path) -> None:
    mark_done(checkout, "dev")
    assert setup_steps.is_up_to_date(checkout, "cpu")


def test_what_the_package_needs_is_not_enough_for_the_tests(checkout: Path) -> None:
    mark_done(checkout, "cpu")
    assert not setup_steps.is_up_to_date(checkout, "dev")


@pytest.mark.parametrize("name", ["requirements/cpu.txt", "pyproject.toml", ".venv/pyvenv.cfg"])
def test_a_changed_lock_project_or_python_is_set_up_again(checkout: Path, name: str) -> None:
    mark_done(checkout, "cpu")
    assert setup_steps.is_up_to_date(checkout, "cpu")
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert not setup_steps.is_up_to_date(checkout, "cpu")


def test_a_venv_whose_python_is_gone_is_set_up_again(checkout: Path) -> None:
    mark_done(checkout, "cpu")
    (checkout / ".venv" / "bin" / "python").unlink()
    assert not setup_steps.is_up_to_date(checkout, "cpu")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("WARNING: Retrying (Retry(total=1)) after connection broken", "check the network"),
        ("ERROR: No matching distribution found for uv==0", "lacks a package"),
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("something else", "See the output above"),
    ],
)
def test_a_failed_step_shows_what_was_run_what_it_said_and_what_to_do(
    said: str, advice: str
) -> None:
    command = [sys.executable, "-c", f"print({said!r}); raise SystemExit(1)"]
    with pytest.raises(setup_steps.SetupError) as error:
        setup_steps.run("fetch uv with pip", command)
    message = str(error.value)
    assert message.startswith("could not fetch uv with pip")
    assert said in message
    assert advice in message


def test_uv_is_told_what_pip_was_told_and_the_environment_wins() -> None:
    told = setup_indexes.uv_environment(
        ":env:.find-links='/wheels /more'\n"
        "global.find-links='/other'\n"
        "global.index-url='https://mirror.example/simple'\n"
        "global.extra-index-url='https://a.example https://b.example'\n"
        "global.disable-pip-version-check='1'"
    )
    assert told == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://a.example https://b.example",
    }
