"""How much memory a benchmark gives its servers: as asked for in GB, or a part of what its
conversations need.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_pensieve.bench.fit import fit_memory, machine_room
from vllm_pensieve.bench.options import Memory, Workload, rounded_context
from vllm_pensieve.bench.run_options import RunOptions
from vllm_pensieve.bench.server_options import value_of, workers
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import GB, GIB
from vllm_pensieve.models import kv_gb_per_token
from vllm_pensieve.modes import parse_modes

SPARE = 1.25
"""KV memory is at least this many times the longest conversation's."""


@dataclass(frozen=True)
class MemoryShares:
    """Parts of the working set, the KV of all conversations that go on at a time, in each memory."""

    gpu: float
    cpu: float


@dataclass(frozen=True)
class MemoryAsked:
    """Memory in GB (10^9 bytes) as the user gave it; None: so large a part of the working set."""

    gpu_cache_gb: float | None
    cpu_cache_gb: float | None
    shares: MemoryShares


def choose_memory(asked: MemoryAsked, options: RunOptions, workload: Workload) -> Memory:
    """Return the memory of each server; KV memory is that of each of its workers, host memory of all together.

    vLLM's options for number format and number of workers change how much KV there is, and where.
    Raises UsageError if no mode uses the host memory that was asked for or one needs what was refused, or
    if nothing was asked for and it is not known how much KV the model has.
    """
    wanted = parse_modes(options.modes, host_cache_gib=1.0)
    used = any(mode.uses_host_cache for mode in wanted)
    if asked.cpu_cache_gb and not used:
        raise UsageError(
            f"--cpu-cache {asked.cpu_cache_gb:g}: none of the modes {options.modes} uses host memory; "
            "leave it out, or add pensieve to --modes"
        )
    lacking = [mode.name for mode in wanted if mode.needs_host_cache and asked.cpu_cache_gb == 0]
    if lacking:
        raise UsageError(f"--cpu-cache 0 leaves no host memory for {', '.join(lacking)}; give some")
    gpu_gb, cpu_gb = asked.gpu_cache_gb, asked.cpu_cache_gb
    if gpu_gb is None or (cpu_gb is None and used):
        token_gb = kv_gb_per_token(options.model, value_of(options.server_options, "--dtype"))
        lengths = [c.context_tokens(0) for c in workload.conversations]
        at_a_time = min(workload.concurrency, len(lengths))
        working_set_gb = sum(lengths) / len(lengths) * at_a_time * token_gb
        least_gb = SPARE * rounded_context(workload) * token_gb
        all_workers_gb = max(asked.shares.gpu * working_set_gb, least_gb)
        gpu_gb = gpu_gb or all_workers_gb / workers(options.server_options)
        cpu_gb = asked.shares.cpu * working_set_gb if cpu_gb is None else cpu_gb
    return Memory(_gib(gpu_gb), _gib(cpu_gb) if cpu_gb and used else None)


def carried(asked: MemoryAsked, options: RunOptions) -> tuple[MemoryAsked, tuple[str, ...]]:
    """Return the memory asked for as far as this machine can carry it, and one line on what was cut, or none."""
    if not asked.gpu_cache_gb and not asked.cpu_cache_gb:
        return asked, ()
    used = any(mode.uses_host_cache for mode in parse_modes(options.modes, host_cache_gib=1.0))
    room = machine_room(options.model, options.server_options)
    fitted = fit_memory(asked.gpu_cache_gb, asked.cpu_cache_gb, used, room)
    return MemoryAsked(fitted.gpu_cache_gb, fitted.cpu_cache_gb, asked.shares), fitted.notes


def _gib(gb: float) -> float:
    return gb * GB / GIB
