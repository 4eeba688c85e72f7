#!/usr/bin/env python
"""What one engine step costs in the scheduler: ours compared with stock vLLM's, without a model.

    python scripts/step_time.py [--running 200] [--idle 2000] [--steps 1000] [--json OUT]

Every scheduler serves the same stream of conversations: so many run at a time, so many more are idle, and memory holds
the running ones and half of the idle ones, so that blocks are evicted all the time. When a request ends, the next
session returns with its history and a new message. Timed is `schedule` plus `update_from_output`; the schedulers take
turns, twenty steps at a time, so that all meet the same noise of the machine. Needs the development setup
(make setup-dev).
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_pensieve.testing import environment

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

    from vllm_pensieve.testing.world import World

HISTORY_TOKENS = 400
STEPS_A_TURN = 20
BLOCK_TOKENS = 32
BLOCKS_A_SESSION = 28  # at most
OUTPUT_TOKENS = (105, 305)  # 205 on average, as in ShareGPT
STOCK, PLUGIN, HOST = "stock vLLM", "pensieve", "pensieve, host tier"


@dataclass
class Side:
    """One scheduler and its traffic; the same seed gives the same sessions and messages."""

    name: str
    world: World
    running: int
    histories: list[list[int]]
    random: random.Random
    step_s: list[float] = field(default_factory=list)
    _live: dict[str, tuple[Request, int]] = field(default_factory=dict)
    _returned: int = 0

    def step(self) -> None:
        """Keep the number of running requests, then schedule a step and take its output back."""
        while len(self._live) < self.running:
            self._next_session_returns()
        scheduler = self.world.scheduler
        begun = time.perf_counter()
        output = scheduler.schedule()
        scheduled = time.perf_counter()
        result = self._result(output)
        computed = time.perf_counter()
        scheduler.update_from_output(output, result)
        self.step_s.append(scheduled - begun + time.perf_counter() - computed)
        for request_id in [r for r, (request, _) in self._live.items() if request.is_finished()]:
            request, session = self._live.pop(request_id)
            self.histories[session] += request.output_token_ids

    def _next_session_returns(self) -> None:
        session = self._returned % len(self.histories)
        self._returned += 1
        history = self.histories[session]
        if len(history) > BLOCKS_A_SESSION * BLOCK_TOKENS - OUTPUT_TOKENS[1] - 60:
            del history[HISTORY_TOKENS:]
        history += self.random.choices(range(1, 50_000), k=self.random.randrange(10, 60))
        request = self.world.add(history, self.random.randrange(*OUTPUT_TOKENS))
        self.world.requests.clear()
        self._live[request.request_id] = (request, session)

    def _result(self, output: SchedulerOutput) -> Any:
        from vllm.v1.outputs import ModelRunnerOutput

        ids = list(output.num_scheduled_tokens)
        requests = self.world.scheduler.requests
        return ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
            sampled_token_ids=[[] if requests[r].is_prefill_chunk else [7] for r in ids],
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--running", type=int, default=200)
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    environment.apply()
    from vllm_pensieve.testing.models import make_llama

    with tempfile.TemporaryDirectory() as folder:
        sides = make_sides(make_llama(Path(folder)), options.running, options.idle)
    mean_output = sum(OUTPUT_TOKENS) // 2
    every_session_once = (options.running + options.idle) * mean_output // options.running
    take_turns(sides, every_session_once)
    for side in sides:
        side.step_s.clear()
    gc.collect()
    gc.freeze()
    take_turns(sides, options.steps)
    return report(sides, options)


def take_turns(sides: list[Side], steps: int) -> None:
    for turn in range(-(-steps // STEPS_A_TURN)):
        first = turn % len(sides)
        for side in sides[first:] + sides[:first]:
            for _ in range(STEPS_A_TURN):
                side.step()


def make_sides(model: Path, running: int, idle: int) -> list[Side]:
    from vllm_pensieve.testing.world import World, stock_scheduler

    sessions = running + idle
    blocks = (running + idle // 2) * BLOCKS_A_SESSION * 3 // 4
    common: dict[str, Any] = {
        "blocks": blocks,
        "block_tokens": BLOCK_TOKENS,
        "max_requests": running,
        "settings": {"step_cost_tokens": 128},
    }
    by_name = {
        STOCK: World(model, scheduler=stock_scheduler, **common),
        PLUGIN: World(model, **common),
        HOST: World(model, host_blocks=sessions * BLOCKS_A_SESSION, **common),
    }
    sides = []
    for name, world in by_name.items():
        source = random.Random(0)
        histories = [source.choices(range(1, 50_000), k=HISTORY_TOKENS) for _ in range(sessions)]
        sides.append(Side(name, world, running, histories, source))
    return sides


def report(sides: list[Side], options: argparse.Namespace) -> int:
    stock = next(side for side in sides if side.name == STOCK)
    print(f"{options.running} running, {options.idle} idle sessions, {options.steps} steps each")
    result = {}
    for side in sides:
        p50, p99 = statistics.median(side.step_s), statistics.quantiles(side.step_s, n=100)[98]
        ratio = p50 / statistics.median(stock.step_s)
        result[side.name] = {"p50_ms": 1e3 * p50, "p99_ms": 1e3 * p99, "p50_ratio": ratio}
        print(
            f"{side.name:22} p50 {1e3 * p50:.3f} ms, p99 {1e3 * p99:.3f} ms; p50 / stock {ratio:.3f}"
        )
    if options.json:
        options.json.write_text(json.dumps({"schema": 1, "sides": result}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
