#!/usr/bin/env python
"""How long running requests stand still while a swapped session is loaded, with and without loads in stages.

    python scripts/load_stall.py [--megabytes 800] [--gigabytes-per-second 1] [--repeats 5] [--json OUT]

A real engine on the CPU serves a tiny model with much KV for each token. Two requests decode; a session whose KV is in
host memory returns. Copies of the host tier are slowed down to the given speed, as if memory were that slow, so that
they take as long as those of a long context do on a GPU. Printed are, for each limit of a step's loads
(`load_ms_per_step`), the median step before the session returns, the longest one until its first token and the longest
but for the last, which computes what the session asks, and the time to its first token; then the same without loads.
The limits take turns. Needs the development setup (make setup-dev).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_pensieve.testing import environment

environment.apply()

from vllm_pensieve.swap import host_copier  # noqa: E402
from vllm_pensieve.testing.models import KV_HEAVY_TOKEN_BYTES as TOKEN_BYTES  # noqa: E402
from vllm_pensieve.testing.models import make_kv_heavy_llama  # noqa: E402
from vllm_pensieve.testing.served import BLOCK_TOKENS, Served, tokens  # noqa: E402

LIMITS_MS = (0.0, 20.0, 50.0)
"""0: no limit, everything in one step."""
RESIDENT = -1.0
"""Stands for a return without loads: the session is still in GPU memory."""


def main() -> None:
    """Measure every limit, print a table, and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=800, help="KV of the returning session")
    parser.add_argument("--gigabytes-per-second", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    slow_down(options.gigabytes_per_second * 1e9)
    prompt_tokens = options.megabytes * 10**6 // TOKEN_BYTES
    with tempfile.TemporaryDirectory() as folder:
        model = make_kv_heavy_llama(Path(folder), 32_768)
        served = make_served(model, prompt_tokens)
        rows = measure(served, prompt_tokens, options.repeats)
    report(rows, options)


def slow_down(bytes_per_s: float) -> None:
    """Have each copy of this process's host tier take as long as at that speed; nothing computes meanwhile."""
    copy = host_copier._copy

    def slowed(source: Any, from_rows: Any, destination: Any, to_rows: Any) -> None:
        began_s = time.perf_counter()
        copy(source, from_rows, destination, to_rows)
        rest_s = len(from_rows) * source.shape[1] / bytes_per_s - (time.perf_counter() - began_s)
        time.sleep(max(rest_s, 0.0))

    host_copier._copy = slowed


def make_served(model: Path, prompt_tokens: int) -> Served:
    """An engine with room for the session and the decoding requests, and for two sessions in host memory."""
    blocks = prompt_tokens // BLOCK_TOKENS + 2
    return Served(
        model,
        settings={"load_cost_flops_per_byte": 1e-9, "admission_reserve": 0.0},
        blocks=blocks + 40,
        step_tokens=1024,
        max_model_tokens=prompt_tokens + 600,
        host_blocks=3 * blocks,
        block_bytes=TOKEN_BYTES * BLOCK_TOKENS,
    )


def measure(served: Served, prompt_tokens: int, repeats: int) -> list[dict[str, float]]:
    """One row for each limit and repeat."""
    sessions = [tokens(prompt_tokens, seed=seed) for seed in (1, 2)]
    for session in sessions:
        served.serve([session], 1)
    rows = []
    for repeat in range(repeats):
        for turn, limit_ms in enumerate(LIMITS_MS):
            number = repeat * len(LIMITS_MS) + turn
            # The other session was there last: this one is in host memory.
            rows.append(returns(served, sessions[number % 2], limit_ms, seed=100 + number))
        again = returns(served, sessions[number % 2], LIMITS_MS[-1], seed=500 + repeat)
        rows.append(again | {"limit_ms": RESIDENT})
    return rows


def returns(served: Served, session: Sequence[int], limit_ms: float, seed: int) -> dict[str, float]:
    """The session returns while two requests decode."""
    scheduler = served.scheduler
    scheduler._load_s_per_step = limit_ms / 1e3
    vars(scheduler).pop("_loads_per_step", None)
    for i in range(2):
        served.add(tokens(64, seed=2 * seed + i), 500)
    for _ in range(10):
        served.step()
    calm_s = [step_s(served) for _ in range(30)]
    before = served.prompt_tokens
    name = served.add([*session, *tokens(20, seed=seed)], 1)
    began_s = time.perf_counter()
    steps_s = [step_s(served)]
    while served.scheduled(name) is not None:
        steps_s.append(step_s(served))
    first_token_s = time.perf_counter() - began_s
    swapped = served.prompt_tokens["swapped"] - before["swapped"]
    served.engine.abort_request(list(served.scheduler.requests), internal=True)
    served.drain()
    return {
        "limit_ms": limit_ms,
        "swapped_mb": swapped * TOKEN_BYTES / 1e6,
        "calm_step_ms": 1e3 * statistics.median(calm_s),
        "longest_step_ms": 1e3 * max(steps_s),
        "longest_before_last_ms": 1e3 * max(steps_s[:-1], default=0.0),
        "first_token_ms": 1e3 * first_token_s,
        "steps": len(steps_s),
    }


def step_s(served: Served) -> float:
    began_s = time.perf_counter()
    served.step()
    return time.perf_counter() - began_s


def report(rows: list[dict[str, float]], options: argparse.Namespace) -> None:
    """Medians of each limit."""
    medians = []
    for limit_ms in (*LIMITS_MS, RESIDENT):
        own = [row for row in rows if row["limit_ms"] == limit_ms]
        medians.append({key: statistics.median(row[key] for row in own) for key in own[0]})
    at_once = medians[0]
    print(
        f"{options.megabytes} MB at {options.gigabytes_per_second} GB/s, {options.repeats} repeats, medians"
    )
    print("limit      copied  step before  longest step  but for the last  first token  steps")
    for row in medians:
        limit = {0.0: "none", RESIDENT: "resident"}.get(
            row["limit_ms"], f"{row['limit_ms']:.0f} ms"
        )
        print(
            f"{limit:8} {row['swapped_mb']:5.0f} MB {row['calm_step_ms']:9.1f} ms {row['longest_step_ms']:10.1f} ms "
            f"{row['longest_before_last_ms']:14.1f} ms "
            f"{row['first_token_ms']:9.0f} ms ({row['first_token_ms'] / at_once['first_token_ms']:.2f}x)"
            f" {row['steps']:4.0f}"
        )
    if options.json:
        options.json.write_text(json.dumps({"schema": 1, "medians": medians, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
