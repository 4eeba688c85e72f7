"""One long session that returns to a scheduler of scripts/step_time.py, with more and less of it in memory."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from step_time_sides import make_world, timed_step

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_pensieve.testing.world import World

BLOCK_TOKENS = 16
STEP_TOKENS = 8192
MESSAGE_TOKENS = 40
LONG_S = (
    1e5  # so much older than the others that all of a session leaves memory before any of theirs
)
CASES = ("cold", "cold, memory full", "resident", "half gone", "all swapped")
"""Half and all of a session's blocks are in host memory where there is a host tier, and nowhere else."""


def returning_session(side: str, model: Path, context_tokens: int) -> dict[str, dict[str, float]]:
    """Each of `CASES` once, in a scheduler of its own with memory for two and a half such sessions.

    Returns for each: whole_s, the whole request in the scheduler (schedule and update); longest_schedule_s; steps;
    resident_share and swapped_share, of the session's blocks before it returned.
    """
    from vllm_pensieve.testing.world import tokens

    blocks = context_tokens // BLOCK_TOKENS
    world = make_world(
        side,
        model,
        host_blocks=8 * blocks,
        blocks=2 * blocks + blocks // 2,
        block_tokens=BLOCK_TOKENS,
        max_model_tokens=context_tokens + 4 * MESSAGE_TOKENS,
        step_tokens=STEP_TOKENS,
    )
    ours, *others = (tokens(context_tokens, seed) for seed in range(6))
    measured = {"cold": _served(world, ours)}
    measured["resident"] = _returns(world, ours, 100)
    world.clock.let_pass(LONG_S)
    _served(world, others[0])
    measured["cold, memory full"] = _served(world, others[1])
    measured["half gone"] = _returns(world, ours, 101)
    world.clock.let_pass(LONG_S)
    for other in others[2:]:
        _served(world, other)
    measured["all swapped"] = _returns(world, ours, 102)
    return {case: measured[case] for case in CASES}


def _returns(world: World, session: list[int], seed: int) -> dict[str, float]:
    from vllm_pensieve.testing.world import tokens

    blocks = len(session) // BLOCK_TOKENS
    resident = len(world.cached(session)) / blocks
    swapped = 0.0 if world.host is None else len(world.swapped(session)) / blocks
    served = _served(world, session + tokens(MESSAGE_TOKENS, seed))
    return served | {"resident_share": resident, "swapped_share": swapped}


def _served(world: World, prompt: list[int]) -> dict[str, Any]:
    world.add(prompt, output_tokens=2)
    world.requests.clear()
    steps = []
    with _no_collection():
        while world.scheduler.has_requests():
            steps.append(timed_step(world))
    return {
        "whole_s": sum(step.total_s for step in steps),
        "cpu_s": sum(step.cpu_s for step in steps),
        "longest_schedule_s": max(step.schedule_s for step in steps),
        "steps": len(steps),
        "resident_share": 0.0,
        "swapped_share": 0.0,
    }


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """What a collection of garbage costs depends on all that was there before."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
