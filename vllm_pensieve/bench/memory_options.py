"""Names and units of memory on the command line, each said once here.

Where a size becomes a setting of the plugin or an option of vLLM it is in GiB, and its name says so: `--kv-cache-gib`,
`--host-cache-gib`. The guide's commands count in GB of 10^9 bytes: `--gpu-cache GB`, `--cpu-cache GB`. Every command
takes the other pair, too, and earlier spellings, without showing them.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_pensieve.machine import GB, GIB


@dataclass(frozen=True)
class Alias:
    """Another name of an option, which help does not show; what is given under it counts `factor` times."""

    name: str
    factor: float = 1.0


KV_GIB = (Alias("--gpu-cache", GB / GIB),)
HOST_GIB = (Alias("--cpu-cache", GB / GIB), Alias("--host-cache"))
GPU_GB = (Alias("--kv-cache-gib", GIB / GB),)
CPU_GB = (Alias("--host-cache-gib", GIB / GB),)
"""The aliases of `--kv-cache-gib`, `--host-cache-gib`, `--gpu-cache` and `--cpu-cache`."""
