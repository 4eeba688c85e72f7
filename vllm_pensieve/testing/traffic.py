"""Random conversations against a world: turns, evictions, aborts and preemptions at random moments."""

import random
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.request import Request

from vllm_pensieve.testing.world import World


@dataclass
class Counts:
    """What happened. `in_walk` counts what hit a request in the middle of its walk."""

    finished: int = 0
    wrong: int = 0
    aborted_in_walk: int = 0
    preempted: int = 0
    preempted_in_walk: int = 0

    def __iadd__(self, other: "Counts") -> "Counts":
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


@dataclass
class Traffic:
    """A fixed seed gives a fixed sequence of prompts and events."""

    world: World
    seed: int
    requests: int = 100
    arrival_chance: float = 0.9
    eviction_chance: float = 0.8
    abort_chance: float = 0.05
    preemption_chance: float = 0.1
    priorities: int = 1
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.sessions = [self._tokens(self.random.randrange(5, 120)) for _ in range(6)]
        self.live: dict[
            str, tuple[Request, list[int]]
        ] = {}  # request and the session it belongs to
        self._watch_preemptions()

    def play(self, max_steps: int = 5000) -> Counts:
        made = steps = 0
        while made < self.requests or self.world.busy:
            steps += 1
            assert steps < max_steps, f"{len(self.live)} requests do not finish"
            if made < self.requests and self._by_chance(self.arrival_chance):
                burst = min(self.random.choice([1, 1, 2, 3]), self.requests - made)
                for _ in range(burst):
                    self._next_turn()
                made += burst
            if self._by_chance(self.eviction_chance):
                self._evict()
            if self.live and self._by_chance(self.abort_chance):
                self._abort(self.random.choice(list(self.live)))
            if self.world.scheduler.running and self._by_chance(self.preemption_chance):
                self._preempt()
            self.world.step()
            self._collect()
        return self.counts

    def _by_chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _tokens(self, count: int) -> list[int]:
        return self.random.choices(range(1, 50_000), k=count)

    def _next_turn(self) -> None:
        session = self.random.choice(self.sessions)
        session += self._tokens(self.random.choice([1, 7, 16, 32, 60]))
        if len(session) > self.world.max_model_tokens - 100:
            del session[200:]
        request = self.world.add(
            session, self.random.randrange(1, 50), priority=self.random.randrange(self.priorities)
        )
        self.live[request.request_id] = (request, session)

    def _evict(self) -> None:
        """Only hashes go: a step in flight may still read the blocks."""
        share = self.random.choice([0.05, 0.3, 0.6])
        idle = [
            b.block_id
            for b in self.world.pool.blocks
            if b.ref_cnt == 0 and b.block_hash is not None
        ]
        self.world.pool.evict_blocks({block for block in idle if self._by_chance(share)})

    def _abort(self, request_id: str) -> None:
        self.counts.aborted_in_walk += request_id in self.world.walks
        self.world.abort(self.live.pop(request_id)[0])

    def _preempt(self) -> None:
        running = self.world.scheduler.running
        walking = [request for request in running if request.request_id in self.world.walks]
        self.world.preempt(
            self.random.choice(walking or running), drop_stale_output=self._by_chance(0.5)
        )

    def _watch_preemptions(self) -> None:
        preempt = self.world.scheduler._preempt_request

        def watched(request: Request, *args: Any, **kwargs: Any) -> None:
            self.counts.preempted += 1
            self.counts.preempted_in_walk += request.request_id in self.world.walks
            preempt(request, *args, **kwargs)

        self.world.scheduler._preempt_request = watched

    def _collect(self) -> None:
        for request_id, (request, session) in list(self.live.items()):
            if request.is_finished():
                del self.live[request_id]
                output = list(request.output_token_ids)
                self.counts.finished += 1
                want = self.world.device.answer(request.prompt_token_ids, request.max_tokens)
                self.counts.wrong += output != want
                if self._by_chance(0.7) and len(session) < self.world.max_model_tokens - 150:
                    session += output
