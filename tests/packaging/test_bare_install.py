"""The package where something is missing: vLLM, or a folder that it may write to."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.packaging.scripts import ROOT
from vllm_pensieve.machine import NO_VLLM

OF_VLLM = ("vllm", "torch", "transformers", "tokenizers", "safetensors")


def run(
    *arguments: str, before: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-m", "vllm_pensieve", *arguments],
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd="/",
    )


@pytest.fixture
def without_vllm(tmp_path: Path) -> dict[str, str]:
    """An environment in which what vLLM brings along cannot be imported."""
    finder = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {OF_VLLM}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    (tmp_path / "sitecustomize.py").write_text(finder)
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize(
    "command",
    [
        ("chat",),
        ("serve", "demo", "--port", "0"),
        ("profile",),
        ("compare", "--out", "out"),
        ("bench", "users"),
        ("bench", "kernels"),
        ("bench", "transfers"),
        ("trace", "collect", "all"),
    ],
    ids=" ".join,
)
def test_without_vllm_the_extra_to_install_is_named(command, without_vllm, tmp_path):
    if command[0] == "serve":
        from vllm_pensieve.bench.server import free_port

        command = (*command[:-1], str(free_port()))
    if command[0] in ("compare", "bench"):
        command = tuple(str(tmp_path / part) if part == "out" else part for part in command)
    done = run(*command, **without_vllm)
    assert (done.returncode, done.stderr) == (2, f"pensieve: {NO_VLLM}\n")


def test_the_extras_ask_for_the_versions_that_are_named():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for requirement in (*extras["cpu"], *extras["cuda"]):
        assert requirement in NO_VLLM


def unprivileged() -> tuple[str, ...]:
    """What keeps a command from writing where only root may, if the tests run as root."""
    if os.getuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and there is no setpriv to take that away")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


@pytest.fixture
def read_only(tmp_path: Path) -> dict[str, str]:
    """A home folder and a package that cannot be written, as in a container with a user of its own."""
    package, home, temporary = tmp_path / "site", tmp_path / "home", tmp_path / "tmp"
    shutil.copytree(
        ROOT / "vllm_pensieve",
        package / "vllm_pensieve",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for folder in (home, temporary):
        folder.mkdir()
    for path in (home, *package.rglob("*")):
        if path.is_dir():
            path.chmod(0o555)
    return {
        "PYTHONPATH": str(package),
        "HOME": str(home),
        "XDG_CACHE_HOME": "",
        "TMPDIR": str(temporary),
        "MPLCONFIGDIR": str(temporary),
    }


def test_a_trace_is_replayed_where_nothing_can_be_written(read_only, tmp_path):
    trace = tmp_path / "trace.jsonl"
    line = '{"timestamp": %d, "input_length": 64, "output_length": 1, "hash_ids": [1, 2, %d]}\n'
    trace.write_text("".join(line % (number, number) for number in range(3, 9)))
    done = run("simulate", str(trace), before=unprivileged(), **read_only)
    assert done.returncode == 0, done.stderr
    assert "retention" in done.stdout


def test_the_demo_model_is_made_among_temporary_files_where_the_cache_cannot_be_written(read_only):
    program = "from vllm_pensieve.demo_model import ensure_demo_model; print(ensure_demo_model())"
    done = subprocess.run(
        [*unprivileged(), sys.executable, "-c", program],
        env=os.environ | read_only,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    made = Path(done.stdout.strip())
    assert made.parent == Path(read_only["TMPDIR"]) / f"vllm-pensieve-{os.getuid()}"
    assert made.parent.stat().st_mode & 0o777 == 0o700
    assert (made / "model.safetensors").is_file()


def test_a_folder_for_temporary_files_that_others_may_write_is_not_used(read_only):
    theirs = Path(read_only["TMPDIR"]) / f"vllm-pensieve-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    done = run("chat", before=unprivileged(), **read_only)
    assert done.returncode == 2, done.stderr
    assert f"{theirs} is not a folder of this user alone. Set XDG_CACHE_HOME to" in done.stderr
    assert "Traceback" not in done.stderr
