"""What is asked for, cut to what there is: conversations to a model's context, memory to a machine's."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_pensieve.bench.server_options import value_of, workers
from vllm_pensieve.demo_model import DEMO_MODEL_NAME
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import GB, describe_machine, is_cpu_build
from vllm_pensieve.models import config_path, context_limit, kv_gb_per_token
from vllm_pensieve.modes import BLOCK_TOKENS
from vllm_pensieve.workloads.conversations import WorkloadSpec

BLOCKS_KEPT_BACK = 2
"""Blocks of KV memory that no sequence can use: vLLM's null block, and one that is begun."""
PROCESSES_GB = 2.0
SHARE_LEFT = 0.2
"""Main memory left to the server's processes and to everything else: the larger of the two."""
GPU_SHARE = 0.9
"""vLLM's own share of a GPU's memory."""
GPU_ACTIVATIONS_GB = 2.0


@dataclass(frozen=True)
class Room:
    """Memory in GB that can be given to KV: of each GPU (None on a CPU), and in main memory."""

    gpu_gb: float | None
    main_gb: float


@dataclass(frozen=True)
class Fitted:
    """GB for KV blocks and of host memory (None: not asked for), and one line on what was changed, or none."""

    gpu_cache_gb: float | None
    cpu_cache_gb: float | None
    notes: tuple[str, ...] = ()


def fit_turns(
    spec: WorkloadSpec, limit: int | None, what: str, turn_tokens: int, overhead_tokens: int
) -> tuple[WorkloadSpec, tuple[str, ...]]:
    """Return conversations that fit into `limit` tokens, and one line on what was cut, or none.

    The turns come first, up to as many as asked for; the text before them gets what they leave.

    limit: None: not known, nothing is cut. what: what the limit is of, for the line. turn_tokens: of a message and
    its reply with all that a chat template adds. overhead_tokens: of the rest.

    Raises:
        UsageError: not even one turn fits.
    """
    turns = spec.turns or 1
    if limit is None or overhead_tokens + spec.history_tokens + turns * turn_tokens <= limit:
        return spec, ()
    room = limit - overhead_tokens
    if room < turn_tokens:
        raise UsageError(
            f"one turn takes about {turn_tokens + overhead_tokens} tokens, {what} holds {limit}; "
            "use a smaller --max-new-tokens"
        )
    fitting = min(turns, room // turn_tokens)
    history = min(spec.history_tokens, room - fitting * turn_tokens)
    asked = _length(turns, spec.history_tokens)
    note = (
        f"{what} holds {limit:,} tokens: conversations of {_length(fitting, history)}, not {asked}"
    )
    return dataclasses.replace(spec, turns=fitting, history_tokens=history), (note,)


def _length(turns: int, history_tokens: int) -> str:
    number = f"{turns} turn" + ("" if turns == 1 else "s")
    return f"{number} after a text of {history_tokens:,} tokens" if history_tokens else number


def longest_sequence(
    model: str, gpu_cache_gb: float | None, server_options: Sequence[str]
) -> tuple[int | None, str]:
    """Return the tokens that a sequence may have, and what says so; None: nothing is known to limit it.

    The smallest counts of the model's own context, `--max-model-len` among vLLM's options, and KV memory, where
    it is given and it is known how much the model takes for a token.
    """
    limits = []
    own = context_limit(model)
    if own is not None:
        limits.append((own, f"the context of {model}"))
    asked = value_of(server_options, "--max-model-len")
    if asked is not None and asked.isdecimal():
        limits.append((int(asked), f"--max-model-len {asked}"))
    if gpu_cache_gb is not None:
        try:
            token_gb = kv_gb_per_token(model, value_of(server_options, "--dtype"))
        except UsageError:
            token_gb = 0.0
        if token_gb:
            blocks = int(gpu_cache_gb * workers(server_options) / (token_gb * BLOCK_TOKENS))
            tokens = max(0, blocks - BLOCKS_KEPT_BACK) * BLOCK_TOKENS
            limits.append((tokens, f"KV memory of {gpu_cache_gb:.3g} GB"))
    return min(limits, default=(None, "the context"))


def machine_room(model: str, server_options: Sequence[str] = ()) -> Room:
    """Return the memory that this machine has for the KV of `model`, now."""
    from vllm_pensieve.swap.host_memory import available_bytes

    free_gb = available_bytes() / GB
    main_gb = max(0.0, free_gb - max(PROCESSES_GB, SHARE_LEFT * free_gb))
    weights_gb = _weights_gb(model)
    if is_cpu_build():
        return Room(None, max(0.0, main_gb - weights_gb))
    gpus_gb = [_gpu_gb(str(gpu)) for gpu in describe_machine()["gpus"]]  # type: ignore[attr-defined]
    if not gpus_gb:
        return Room(None, main_gb)
    own_gb = min(gpus_gb) * GPU_SHARE - weights_gb / workers(server_options) - GPU_ACTIVATIONS_GB
    return Room(max(0.0, own_gb), main_gb)


def fit_memory(
    gpu_cache_gb: float | None, cpu_cache_gb: float | None, host_used: bool, room: Room
) -> Fitted:
    """Return the sizes as they are where the room can carry them; else as much as there is, with a line that says so.

    On a CPU both lie in main memory and are cut in the same proportion. host_used: whether host memory is taken at all.
    """
    gpu, cpu = gpu_cache_gb or 0.0, (cpu_cache_gb or 0.0) if host_used else 0.0
    if room.gpu_gb is None:
        share = min(1.0, room.main_gb / (gpu + cpu)) if gpu + cpu else 1.0
        fitted_gpu, fitted_cpu = _down(gpu * share, gpu), _down(cpu * share, cpu)
        there = f"this machine has {room.main_gb:.3g} GB of main memory free for both"
    else:
        fitted_gpu = _down(min(gpu, room.gpu_gb), gpu)
        fitted_cpu = _down(min(cpu, room.main_gb), cpu)
        there = (
            f"this machine has {room.gpu_gb:.3g} GB for KV on a GPU and {room.main_gb:.3g} GB "
            "of main memory free"
        )
    if (fitted_gpu, fitted_cpu) == (gpu, cpu):
        return Fitted(gpu_cache_gb, cpu_cache_gb)
    asked, given = [], []
    for option, size, fitted in (
        ("--gpu-cache", gpu, fitted_gpu),
        ("--cpu-cache", cpu, fitted_cpu),
    ):
        if size:
            asked.append(f"{option} {size:g}")
            given.append(f"{option} {fitted:.3g}")
    note = f"memory: {' '.join(asked)} GB asked for; {there}, so {' '.join(given)} GB given"
    return Fitted(
        None if gpu_cache_gb is None else fitted_gpu,
        fitted_cpu if cpu else cpu_cache_gb,
        (note,),
    )


def _down(size_gb: float, asked_gb: float) -> float:
    """A size that was cut, to three digits and not above; one that was not as it is."""
    return size_gb if size_gb == asked_gb else float(f"{size_gb * 0.995:.3g}")


def _gpu_gb(described: str) -> float:
    """Of nvidia-smi's `NAME, 81559 MiB`."""
    found = re.search(r"(\d+) MiB", described)
    return int(found[1]) * 2**20 / GB if found else 0.0


def _weights_gb(model: str) -> float:
    """Size of a model's weights as far as its files are here."""
    if model == DEMO_MODEL_NAME:
        return 0.0
    try:
        folder = config_path(model).parent
    except OSError:
        return 0.0
    files = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
    return sum(Path(file).stat().st_size for file in files) / GB
