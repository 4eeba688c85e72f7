"""The conversations that scripts/step_time.py serves: so many run at a time, many more are idle, and memory is full.

Memory holds the running sessions and half of the idle ones, so blocks are evicted all the time. When a request ends,
the next session returns with its history and a new message.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from step_time_sides import StepTime, make_world, timed_step

if TYPE_CHECKING:
    from pathlib import Path

    from vllm.v1.request import Request

BLOCK_TOKENS = 32
HISTORY_TOKENS = 400
BLOCKS_A_SESSION = 28  # at most
MESSAGE_TOKENS = (10, 60)
OUTPUT_TOKENS = (105, 305)  # 205 on average, as in ShareGPT


class Traffic:
    """One side's scheduler and its conversations, which are the same for every side."""

    def __init__(self, side: str, model: Path, running: int, idle: int) -> None:
        """running: requests at a time. idle: sessions besides those."""
        sessions = running + idle
        self.running = running
        self.world = make_world(
            side,
            model,
            host_blocks=sessions * BLOCKS_A_SESSION,
            blocks=(running + idle // 2) * BLOCKS_A_SESSION * 3 // 4,
            block_tokens=BLOCK_TOKENS,
            max_requests=running,
        )
        self._random = random.Random(0)
        self._histories = [self._tokens(HISTORY_TOKENS) for _ in range(sessions)]
        self._live: dict[str, tuple[Request, int]] = {}  # the request, and its session's number
        self._returned = 0

    def step(self) -> StepTime:
        """Keep the number of running requests, then make a step."""
        while len(self._live) < self.running:
            self._next_session_returns()
        times = timed_step(self.world)
        for request_id in [r for r, (request, _) in self._live.items() if request.is_finished()]:
            request, session = self._live.pop(request_id)
            self._histories[session] += request.output_token_ids
        return times

    def every_session_once(self) -> int:
        """About how many steps it takes until every session has returned once."""
        return len(self._histories) * sum(OUTPUT_TOKENS) // 2 // self.running

    def _next_session_returns(self) -> None:
        session = self._returned % len(self._histories)
        self._returned += 1
        history = self._histories[session]
        longest = BLOCKS_A_SESSION * BLOCK_TOKENS - OUTPUT_TOKENS[1] - MESSAGE_TOKENS[1]
        if len(history) > longest:
            del history[HISTORY_TOKENS:]
        history += self._tokens(self._random.randrange(*MESSAGE_TOKENS))
        request = self.world.add(history, self._random.randrange(*OUTPUT_TOKENS))
        self.world.requests.clear()
        self._live[request.request_id] = (request, session)

    def _tokens(self, count: int) -> Any:
        return self._random.choices(range(1, 50_000), k=count)
