"""What vLLM takes of the host: cores that it reserves, and memory of its KV cache."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.engine.arg_utils import EngineArgs

_reserved_by_us: list[int] = []
"""What this process was last set to reserve by us and not by the user."""


def reserve_no_core_for_our_connector(engine_args: EngineArgs) -> None:
    """On a CPU, have vLLM reserve as many cores as without a KV connector, unless the user says how many.

    With any connector vLLM reserves one more for each worker, for the threads of one that sends KV to other machines.
    Ours has none: its copies are the worker's own work. Where this leaves no core, vLLM reserves none at all, and the
    worker's threads share theirs with the scheduler, which waits busily: on two cores a decoded token then takes
    several times as long.
    """
    from vllm import envs
    from vllm.platforms import CpuArchEnum, current_platform

    said = envs.VLLM_CPU_NUM_OF_RESERVED_CPU
    if not current_platform.is_cpu() or said not in (None, *_reserved_by_us):
        return
    workers = engine_args.tensor_parallel_size * engine_args.pipeline_parallel_size
    one_a_worker = (CpuArchEnum.X86, CpuArchEnum.ARM, CpuArchEnum.RISCV)
    cores = workers if current_platform.get_cpu_architecture() in one_a_worker else 1
    _reserved_by_us[:] = [cores]
    os.environ["VLLM_CPU_NUM_OF_RESERVED_CPU"] = str(cores)


def kv_cache_size_is_said(engine_args: EngineArgs) -> bool:
    """Whether the user said how large the KV cache is, by option or by vLLM's environment variable."""
    from vllm import envs

    return engine_args.kv_cache_memory_bytes is not None or envs.VLLM_CPU_KVCACHE_SPACE is not None


def kv_cache_bytes_of_host(engine_args: EngineArgs) -> int:
    """Host memory that the KV cache itself will take on all workers, as far as it has been said; 0 on a GPU."""
    from vllm import envs
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or engine_args.num_gpu_blocks_override is not None:
        return 0
    space_gib = envs.VLLM_CPU_KVCACHE_SPACE  # vLLM lets it override the option
    said = engine_args.kv_cache_memory_bytes if space_gib is None else space_gib * 2**30
    workers = engine_args.tensor_parallel_size * engine_args.pipeline_parallel_size
    return int(said or 0) * workers
