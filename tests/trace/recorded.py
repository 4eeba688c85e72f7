"""Trace files as the server writes them, for prompts that a test makes up: a cache without limit, no vLLM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

BLOCK_TOKENS = 32
OUTPUT_TOKENS = 8


@dataclass(frozen=True)
class Prompt:
    """blocks: ids of the full blocks; tokens: of the whole prompt, the last block's remainder included."""

    time_s: float
    session: str | None
    blocks: Sequence[int]
    turn: int = 1

    @property
    def tokens(self) -> int:
        return BLOCK_TOKENS * len(self.blocks) + 5


def record(folder: Path, workload: str, prompts: Sequence[Prompt]) -> Path:
    """Write `prefix_<workload>_b32_requests.jsonl` and `_blocks.jsonl`; return the prefix."""
    prefix = folder / f"prefix_{workload}_b{BLOCK_TOKENS}"
    uses: dict[int, list[Prompt]] = {}
    requests = []
    for number, prompt in enumerate(prompts):
        resident = BLOCK_TOKENS * sum(block in uses for block in prompt.blocks)
        requests.append(_request(number, workload, prompt, resident))
        for block in prompt.blocks:
            uses.setdefault(block, []).append(prompt)
    blocks = [_block(block, workload, own) for block, own in uses.items()]
    for kind, records in (("requests", requests), ("blocks", blocks)):
        lines = "".join(json.dumps(line) + "\n" for line in records)
        Path(f"{prefix}_{kind}.jsonl").write_text(lines)
    return prefix


def _request(number: int, workload: str, prompt: Prompt, resident: int) -> dict[str, object]:
    return {
        "schema": 1,
        "time": 1.7e9 + prompt.time_s,
        "monotonic_s": prompt.time_s,
        "request_id": f"{workload}-{number}",
        "session_id": prompt.session,
        "turn": prompt.turn,
        "workload": workload,
        "prompt_tokens": prompt.tokens,
        "output_tokens": OUTPUT_TOKENS,
        "prompt_tokens_resident": resident,
        "prompt_tokens_swapped": 0,
        "prompt_tokens_recovered": 0,
        "prompt_tokens_new": prompt.tokens - resident,
        "reuse_fraction": resident / prompt.tokens,
        "queue_s": 0.0,
        "ttft_s": 0.1,
        "e2e_s": 0.3,
        "preemptions": 0,
        "finish_reason": "length",
        "timestamp": 1000 * prompt.time_s,
        "input_length": prompt.tokens,
        "output_length": OUTPUT_TOKENS,
        "hash_ids": list(prompt.blocks),
    }


def _block(block: int, workload: str, uses: list[Prompt]) -> dict[str, object]:
    times = [prompt.time_s for prompt in uses]
    return {
        "schema": 1,
        "block": block,
        "position": list(uses[0].blocks).index(block),
        "session_id": uses[0].session,
        "workload": workload,
        "hits": len(uses) - 1,
        "use_times": times,
        "reuse_gaps": [later - earlier for earlier, later in pairwise(times)],
        "fate": "alive",
        "fate_time": times[-1],
    }


def chat(sessions: int, turns: int, first_block: int = 0) -> list[Prompt]:
    """Sessions that take turns; each turn adds two blocks to a prompt of three."""
    prompts = []
    for turn in range(turns):
        for session in range(sessions):
            start = first_block + 1000 * session
            blocks = range(start, start + 3 + 2 * turn)
            time_s = 10.0 * turn + session
            prompts.append(Prompt(time_s, f"s{session}", blocks, turn + 1))
    return prompts


def documents(count: int, first_block: int = 10**6) -> list[Prompt]:
    """Prompts that share nothing."""
    return [
        Prompt(3.0 * i, None, range(first_block + 100 * i, first_block + 100 * i + 20))
        for i in range(count)
    ]
