"""The device that a user asks for, and whether the installed vLLM can have it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import is_cpu_build

VISIBLE = "CUDA_VISIBLE_DEVICES"
AUTO, CPU = "auto", "cpu"
CUDA = re.compile(r"cuda(?::(\d+))?")


def device_environment(
    device: str, environment: Mapping[str, str], cpu_build: bool | None = None
) -> dict[str, str]:
    """Return the environment in which vLLM uses `device`: auto, cpu, cuda, or cuda:N.

    N counts the GPUs that CUDA_VISIBLE_DEVICES leaves visible, from 0. A build of vLLM has either the CPU or GPUs.

    cpu_build: whether vLLM's build is that for the CPU; None: look.

    Raises:
        UsageError: there is no such device, or this build of vLLM does not use it.
    """
    cpu_build = is_cpu_build() if cpu_build is None else cpu_build
    asked = CUDA.fullmatch(device)
    if device not in (AUTO, CPU) and asked is None:
        raise UsageError(f"--device {device!r} is unknown; choose one of: auto, cpu, cuda, cuda:N")
    if cpu_build:
        if asked:
            raise UsageError(
                f"--device {device}: the installed vLLM is the CPU build; "
                "install 'vllm-pensieve[cuda]' in an environment of its own to use a GPU"
            )
        return dict(environment)
    if device == CPU:
        raise UsageError(
            "--device cpu: the installed vLLM is the build for GPUs; "
            "install 'vllm-pensieve[cpu]' in an environment of its own to use the CPU"
        )
    return dict(environment) | _visible(device, asked, environment)


def _visible(
    device: str, asked: re.Match[str] | None, environment: Mapping[str, str]
) -> dict[str, str]:
    """What to change so that only the GPU asked for is visible; nothing if none in particular is."""
    listed = environment.get(VISIBLE)
    gpus = None if listed is None else [gpu.strip() for gpu in listed.split(",") if gpu.strip()]
    if gpus == []:
        raise UsageError(
            f"{VISIBLE} is empty, so no GPU is visible, and the installed vLLM is the build for GPUs; "
            "install 'vllm-pensieve[cpu]' in an environment of its own to use the CPU"
        )
    if asked is None or asked[1] is None:
        return {}
    if gpus is None:
        return {VISIBLE: asked[1]}
    if int(asked[1]) >= len(gpus):
        raise UsageError(f"--device {device}: {VISIBLE}={listed} leaves {len(gpus)} GPUs visible")
    return {VISIBLE: gpus[int(asked[1])]}
