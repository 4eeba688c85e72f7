"""The steps that lead to a working .venv, and the mark that says they were done."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from setup_indexes import run_pip, torch_index, uv_environment

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
NEEDED_GIB = 4.0
# Importing what a server imports proves that the parts fit together, and byte-compiles just these files.
PROOF = "import vllm.entrypoints.openai.api_server, vllm.v1.worker.cpu_worker, vllm.model_executor.models.llama"
HINTS = {
    "No space left on device|Disk quota exceeded": "The disk is full: make room and run this again.",
    "Retrying \\(|Connection|connect|resolve|timed out|tls|certificate": (
        "The package index cannot be reached: check the network, or name another index with "
        "`pip config set global.index-url URL`, and run this again."
    ),
    "No matching distribution|not found in the package registry|no version": (
        "The index that pip is configured with lacks a package (see above): name one that has it with "
        "`pip config set global.extra-index-url URL`, and run this again."
    ),
    "ensurepip|python3-venv": "Python's venv module is incomplete: install it (Debian: python3-venv).",
}


class SetupError(Exception):
    """A step that failed: what it was, what it said, what to do."""


def main() -> None:
    """Does what is missing; a set-up that is up to date costs one look at the mark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dev", action="store_true", help="also what the tests need")
    level = "dev" if parser.parse_args().dev else "cpu"
    try:
        if not is_up_to_date(ROOT, level):
            set_up(level)
    except SetupError as error:
        sys.exit(f"setup: {error}")


def set_up(level: str) -> None:
    """Makes .venv and installs the lock `level` and the package itself, editable."""
    started = time.monotonic()
    check_platform(platform.system(), platform.machine())
    if not any(VENV.glob(".setup-*")):
        check_disk(ROOT, NEEDED_GIB)
    if not Path(PYTHON).exists():
        say(f"making {VENV} with Python {platform.python_version()}")
        run("make .venv", [sys.executable, "-m", "venv", str(VENV)])
    lock = ROOT / "requirements" / f"{level}.txt"
    say(f"installing the packages in {lock.relative_to(ROOT)} (about a minute, {NEEDED_GIB:g} GiB)")
    install(lock)
    say("checking that vLLM starts")
    run("import vLLM", [PYTHON, "-c", PROOF])
    (VENV / f".setup-{level}").write_text(fingerprint(ROOT, level))
    say(f"ready after {time.monotonic() - started:.0f} s")


def install(lock: Path) -> None:
    """Installs the lock with uv, which pip fetches; with pip alone where uv cannot (it takes a minute longer)."""
    pins = lock.read_text().splitlines()
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    uv = next(pin for pin in pins if pin.startswith("uv=="))
    index = [
        option
        for url in torch_index(PYTHON, torch.removeprefix("torch=="))
        for option in ("--index-url", url)
    ]
    pip = [
        PYTHON,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "2",
    ]
    by_pip = [*pip, "--no-compile", "--no-deps"]
    by_uv = [PYTHON, "-m", "uv", "pip", "install", "--quiet", "--python", PYTHON, "--no-deps"]
    environment = os.environ | uv_environment(run_pip(PYTHON, "config", "list"))
    project = ["--no-build-isolation", "--editable", str(ROOT)]
    run("fetch uv with pip", [*by_pip, uv])
    for what in ([*index, torch], ["-r", str(lock)], project):
        try:
            run("install with uv", [*by_uv, *what], environment)
        except SetupError as error:
            say(f"{error}\nTrying with pip.")
            run("install with pip", [*by_pip, *what])


def check_platform(system: str, machine: str) -> None:
    """vLLM's CPU build exists for Linux on two kinds of processor."""
    if system != "Linux" or machine not in ("x86_64", "aarch64"):
        raise SetupError(
            f"vLLM's CPU build needs Linux on x86_64 or aarch64; this is {system} on {machine}."
        )


def check_disk(folder: Path, needed_gib: float) -> None:
    """Refuses before half of the packages are there."""
    free_gib = shutil.disk_usage(folder).free / 2**30
    if free_gib < needed_gib:
        raise SetupError(
            f"installing needs {needed_gib:.1f} GiB on the disk of {folder}, and {free_gib:.1f} GiB are free. "
            "Make room, or put the checkout on another disk."
        )


def fingerprint(root: Path, level: str) -> str:
    """What the state of .venv depends on: the lock, pyproject.toml, its Python and the place of the checkout."""
    parts = [
        root / "requirements" / f"{level}.txt",
        root / "pyproject.toml",
        root / ".venv" / "pyvenv.cfg",
    ]
    digest = hashlib.sha256(str(root).encode())
    for part in parts:
        digest.update(hashlib.sha256(part.read_bytes()).digest())
    return digest.hexdigest()


def is_up_to_date(root: Path, level: str) -> bool:
    """Whether this level, or the larger one, was set up from the files as they are now."""
    if not (root / ".venv" / "bin" / "python").exists():
        return False
    marks = {name: root / ".venv" / f".setup-{name}" for name in (level, "dev")}
    return any(
        mark.exists() and mark.read_text() == fingerprint(root, name)
        for name, mark in marks.items()
    )


def run(step: str, command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs a command silently; if it fails, shows the end of what it said and what to do."""
    environment = {**(environment or os.environ)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SetupError(explain(step, command, done.stdout))


def explain(step: str, command: list[str], output: str) -> str:
    """The message for a failed command."""
    tail = "\n".join(f"  | {line}" for line in output.strip().splitlines()[-15:])
    hint = next(
        (hint for pattern, hint in HINTS.items() if re.search(pattern, output, re.IGNORECASE)), ""
    )
    return f"could not {step}.\n  {' '.join(command)}\n{tail}\n{hint or 'See the output above.'}"


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)
