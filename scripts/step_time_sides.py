"""The sides of scripts/step_time.py: schedulers without a model, and one timed step of any of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import ModelRunnerOutput

    from vllm_pensieve.testing.world import World

STOCK, IDLE = "stock", "stock, idle connector"
PLUGIN, HOST = "pensieve", "pensieve, host tier"
SIDES = (STOCK, IDLE, PLUGIN, HOST)
BASES = {IDLE: (STOCK,), PLUGIN: (STOCK,), HOST: (STOCK, IDLE)}
"""What a side is compared with. vLLM's connector path is part of a host tier, so the second one is fair to it."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step in the scheduler; cpu_s: of this thread, schedule and update together."""

    schedule_s: float
    update_s: float
    cpu_s: float

    @property
    def total_s(self) -> float:
        return self.schedule_s + self.update_s


def make_world(side: str, model: Path, host_blocks: int, **sizes: Any) -> World:
    """The scheduler of one of `SIDES`. host_blocks: of the host tier, where the side has one. sizes: `World`'s."""
    from vllm_pensieve.testing.idle_connector import idle_connector
    from vllm_pensieve.testing.world import World, stock_scheduler

    options: dict[str, dict[str, Any]] = {
        STOCK: {"scheduler": stock_scheduler},
        IDLE: {"scheduler": stock_scheduler, "connector": idle_connector()},
        PLUGIN: {},
        HOST: {"host_blocks": host_blocks},
    }
    return World(model, settings={"step_cost_tokens": 128}, **options[side], **sizes)


def timed_step(world: World) -> StepTime:
    """Schedule a step and take its output back; what a worker would do in between is not timed."""
    scheduler = world.scheduler
    cpu_begun, begun = time.thread_time(), time.perf_counter()
    output = scheduler.schedule()
    scheduled, cpu_scheduled = time.perf_counter(), time.thread_time()
    result = _uncomputed(output, scheduler.requests)
    cpu_computed, computed = time.thread_time(), time.perf_counter()
    scheduler.update_from_output(output, result)
    updated, cpu_updated = time.perf_counter(), time.thread_time()
    return StepTime(
        scheduled - begun,
        updated - computed,
        cpu_scheduled - cpu_begun + cpu_updated - cpu_computed,
    )


def _uncomputed(output: SchedulerOutput, requests: dict[str, Any]) -> ModelRunnerOutput:
    """What a model runner would return, were every token a 7."""
    from vllm.v1.outputs import ModelRunnerOutput

    ids = list(output.num_scheduled_tokens)
    return ModelRunnerOutput(
        req_ids=ids,
        req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
        sampled_token_ids=[[] if requests[r].is_prefill_chunk else [7] for r in ids],
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )
