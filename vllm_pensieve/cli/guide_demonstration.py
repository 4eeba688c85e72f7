"""The demonstration as it is shown: what is asked and answered, the time of each turn, and the cache's statistics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vllm_pensieve.bench.users import UsersOptions
from vllm_pensieve.demo_model import named
from vllm_pensieve.quiet import quiet_start

if TYPE_CHECKING:
    from vllm_pensieve.bench.guide_demonstration import Asked, Demonstration
    from vllm_pensieve.serving import Server


def run(options: UsersOptions) -> int:
    """Show what the sessions ask and are answered; return the exit status.

    The engine runs in this process, so that a profile of it shows what the engine does. Raises UsageError before
    anything is started for what cannot be done as asked.
    """
    from vllm_pensieve.bench.guide_demonstration import plan_demonstration

    return show(plan_demonstration(options))


def show(plan: Demonstration) -> int:
    """Carry out what was planned; return the exit status. Raises UsageError if vLLM refuses the model."""
    from vllm_pensieve.bench.guide_demonstration import demonstrate

    turns = len(plan.conversations[0].turns)
    text = f", each about a text of {plan.history_tokens:,} tokens" if plan.history_tokens else ""
    _say(
        f"Demonstration: {plan.options.mode} on {plan.options.model}, {len(plan.conversations)} sessions of "
        f"{turns} turns{text}, {plan.options.max_new_tokens} tokens a reply at most"
    )
    for note in plan.notes:
        _say(note)
    _say(f"starting vLLM with {named(plan.options.model)} ...")
    begun_s = time.monotonic()
    with quiet_start():
        from vllm_pensieve.serving import Server

        server = Server(plan.options)
    with server:
        for note in server.notes:
            _say(note)
        _say(f"ready after {time.monotonic() - begun_s:.1f} s")
        begun_s = time.monotonic()
        for asked in demonstrate(server, plan):
            _show(asked)
        seconds = time.monotonic() - begun_s
        _say(f"\n{server.get_statistics_str()}")
        _say(f"total time        {seconds:.1f} s, including pauses of {plan.pause_s:g} s")
        if (spare := _why_no_eviction(server)) is not None:
            _say(spare)
    _say(f"\nThis was a demonstration. To serve over HTTP:\n  {plan.serve_command}")
    return 0


def _show(asked: Asked) -> None:
    """What was asked and answered, then a line with turn, times, and what came from the cache."""
    reply = asked.reply
    if reply is None:
        _say(f"\n{asked.problem}")
        return
    cached = reply.cached_tokens / reply.prompt_tokens
    ttft = "-" if reply.ttft_s is None else f"{reply.ttft_s:.3f} s"
    said = " ".join(str(reply).split())
    _say(f"\n[{reply.session_id}] >>> {asked.question}\n{said or '(nothing)'}")
    _say(
        f"[{reply.session_id}] Turn {reply.turn}: TTFT {ttft}, total {reply.e2e_s:.3f} s, "
        f"Cache {reply.cached_tokens:,} of {reply.prompt_tokens:,} prompt tokens ({cached:.0%}), "
        f"{reply.output_tokens} new tokens"
    )


def _why_no_eviction(server: Server) -> str | None:
    """One line where memory was never short; None where blocks were evicted, or are not kept at all."""
    numbers = server.statistics()
    if numbers.stateless or numbers.evictions is None or any(numbers.evictions.values()):
        return None
    room_gb, used_gb = (
        blocks * numbers.block_bytes / 1e9
        for blocks in (numbers.gpu_blocks, numbers.used_gpu_blocks)
    )
    return (
        f"Nothing had to leave the GPU cache: it holds {room_gb:.3g} GB, these conversations took {used_gb:.3g} GB; "
        f"--gpu-cache {max(used_gb * 0.6, 0.001):.2g} would show evictions"
    )


def _say(text: str) -> None:
    print(text, flush=True)
