#!/usr/bin/env python
"""What the plugin, or a part of it, costs when memory is ample: throughput of two sides in one process.

    python scripts/overhead.py [--sides vllm-apc,pensieve] [--runs 5] [--sessions 16] [--turns 4] [--output-tokens 64]
        [--json OUT]

Sides: vllm-apc (stock vLLM with prefix caching), pensieve, pensieve-host (with a host tier), pensieve-traced (every
request and block is recorded). The two engines are kept alive in one process and take turns, batch by batch, with the
same conversations, so that both meet the same noise of the machine. The engine that is made second is about 2 % slower,
whichever it is; so all is measured twice, with either one made first.
Exit status 1 if a token differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HISTORY_TOKENS = 512
INPUT_TOKENS = 38
SIDES: dict[str, dict[str, Any]] = {
    "vllm-apc": {},
    "pensieve": {"pensieve": {}},
    "pensieve-host": {"pensieve": {"host_cache_gib": 1.0}},
    "pensieve-traced": {"pensieve": {"trace_prefix": "TRACE"}},
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", default="vllm-apc,pensieve", help="two of " + ", ".join(SIDES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--first", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sides = options.sides.split(",")
    if len(set(sides)) != 2 or not set(sides) <= set(SIDES):
        parser.error(f"--sides {options.sides}: name two of {', '.join(SIDES)}")
    if options.first is None:
        return report([in_a_process_of_its_own(first) for first in sides], sides, options)
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_CPU_KVCACHE_SPACE="1",
        HF_HUB_OFFLINE="1",
        VLLM_NO_USAGE_STATS="1",
        VLLM_LOGGING_LEVEL="ERROR",
    )
    others = [side for side in sides if side != options.first]
    with tempfile.TemporaryDirectory() as folder:
        engines = {side: make_engine(SIDES[side], folder) for side in [options.first, *others]}
        return measure(engines, sides, options)


def measure(engines: dict[str, Any], sides: list[str], options: argparse.Namespace) -> int:
    run_side_by_side(engines, options, seed=-1)  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    same = True
    for run in range(options.runs):
        spent, histories = run_side_by_side(engines, options, seed=run)
        for name in engines:
            seconds[name].append(spent[name])
        same &= histories[sides[0]] == histories[sides[1]]
    print(json.dumps({"made_first": options.first, "seconds": seconds, "same_tokens": same}))
    return 0


def in_a_process_of_its_own(first: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--first", first]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def make_engine(additional_config: dict[str, Any], folder: str) -> tuple[Any, Any]:
    """An engine and its KV connector, of which vLLM has one a process: it is set when the engine's turn comes."""
    from vllm import LLM
    from vllm.distributed.kv_transfer import kv_transfer_state

    from vllm_pensieve.demo_model import ensure_demo_model

    if "trace_prefix" in additional_config.get("pensieve", {}):
        additional_config = {"pensieve": {"trace_prefix": f"{folder}/trace"}}
    kv_transfer_state._KV_CONNECTOR_AGENT = None
    engine = LLM(
        model=str(ensure_demo_model()),
        enforce_eager=True,
        block_size=32,
        max_model_len=4096,
        disable_log_stats=False,
        additional_config=additional_config,
    )
    return engine, kv_transfer_state._KV_CONNECTOR_AGENT


def run_side_by_side(
    engines: dict[str, Any], options: argparse.Namespace, seed: int
) -> tuple[dict[str, float], dict[str, list[list[int]]]]:
    """All sessions, one batch a turn, each turn on both engines; which comes first alternates.

    The histories hold the engine's own answers. Returns seconds and histories by engine.
    """
    words = random.Random(f"{seed}")

    def new_tokens(count: int) -> list[list[int]]:
        return [[words.randrange(97, 123) for _ in range(count)] for _ in range(options.sessions)]

    start = new_tokens(HISTORY_TOKENS)
    histories = {name: [list(history) for history in start] for name in engines}
    seconds = dict.fromkeys(engines, 0.0)
    for turn in range(options.turns):
        inputs = new_tokens(INPUT_TOKENS)
        for name in sorted(engines, reverse=(turn + seed) % 2 == 0):
            begun = time.perf_counter()
            answer_all(engines[name], histories[name], inputs, options.output_tokens)
            seconds[name] += time.perf_counter() - begun
    return seconds, histories


def answer_all(
    side: tuple[Any, Any], histories: list[list[int]], inputs: list[list[int]], output_tokens: int
) -> None:
    """One turn of every session: its input and the engine's answer go to its history."""
    from vllm import SamplingParams
    from vllm.distributed.kv_transfer import kv_transfer_state

    engine, kv_transfer_state._KV_CONNECTOR_AGENT = side
    sampling = SamplingParams(temperature=0, max_tokens=output_tokens, ignore_eos=True)
    for history, new in zip(histories, inputs, strict=True):
        history += new
    prompts = [{"prompt_token_ids": list(history)} for history in histories]
    outputs = engine.generate(prompts, sampling, use_tqdm=False)
    for history, output in zip(histories, outputs, strict=True):
        history += output.outputs[0].token_ids


def report(measured: list[dict[str, Any]], sides: list[str], options: argparse.Namespace) -> int:
    base, other = sides
    tokens = options.sessions * options.turns * options.output_tokens
    medians = []
    for half in measured:
        print(f"{half['made_first']} made first")
        for name, times in half["seconds"].items():
            rates = ", ".join(f"{tokens / s:.0f}" for s in times)
            print(
                f"  {name:15} output tokens/s: {rates}; median {tokens / statistics.median(times):.0f}"
            )
        pairs = zip(half["seconds"][base], half["seconds"][other], strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        medians.append(statistics.median(ratios))
        print(
            f"  {other} / {base}: {', '.join(f'{r:.3f}' for r in ratios)}; median {medians[-1]:.3f}"
        )
    print(f"throughput of {other} / {base}: {statistics.geometric_mean(medians):.3f}")
    same = all(half["same_tokens"] for half in measured)
    print("the same tokens" if same else "TOKENS DIFFER")
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
