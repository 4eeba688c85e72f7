"""Carries out a comparison: one mode's server after the other, the same conversations against each."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vllm_pensieve.bench.client import Replay, Target, replay, warm_up
from vllm_pensieve.bench.counters import cache_numbers, prompt_tokens_by_source, read_counters
from vllm_pensieve.bench.exchanges import Exchange, ExchangeFile
from vllm_pensieve.bench.plan import ComparePlan, server_command
from vllm_pensieve.bench.server import Server, ServerCommand, ServerFailed, running
from vllm_pensieve.bench.server_options import value_of
from vllm_pensieve.errors import UsageError
from vllm_pensieve.models import kv_gb_per_token
from vllm_pensieve.modes import BLOCK_TOKENS, Mode

READY_TIMEOUT_S = 1800.0
WATCH_S = 0.2
DYING_S = 5.0
"""How long to wait for a server to end after a request failed: vLLM's front end outlives its dead
engine for a moment.
"""


class View(Protocol):
    """Who hears how a comparison goes on."""

    def mode_started(self, mode: Mode, repeat: int) -> None:
        """A server is about to be started; `repeat` counts from 0."""

    def waiting(self, elapsed_s: float) -> None:
        """The server is not ready yet after that many seconds."""

    def measuring(self) -> None:
        """The server is ready and warm."""

    def recorded(self, record: Exchange) -> None:
        """A request has ended."""

    def mode_ended(self, run: ModeRun) -> None:
        """The mode's server has been stopped."""


@dataclass
class ModeRun:
    """One mode in one repeat: what was measured, and what went wrong if anything did."""

    mode: Mode
    repeat: int
    command: ServerCommand
    start_up_s: float | None = None
    """Seconds from starting the process to its first healthy answer; None if it never got there."""
    records: list[Exchange] = field(default_factory=list)
    prompt_tokens: dict[str, int] = field(default_factory=dict)
    cache: dict[str, Any] = field(default_factory=dict)
    """What the plugin did with its memory (`cache_numbers`); empty where it was not at work."""
    stepped_back: str | None = None
    """Why the plugin, which this mode is about, was not at work."""
    failure: ServerFailed | None = None
    interrupted: bool = False

    @property
    def unavailable(self) -> bool:
        """Whether the platform does not have this mode, which may be so."""
        return self.mode.optional and self.failure is not None and self.start_up_s is None


def run_comparison(
    plan: ComparePlan, view: View, on_run: Callable[[list[ModeRun]], None]
) -> list[ModeRun]:
    """Run every mode `plan.repeat` times, the modes in turn, and return the runs.

    `on_run` gets all runs so far after each one. Stops after an interrupted run, and after a server
    that did not start while nothing has been measured yet. Raises UsageError if the port is in use.
    """
    runs: list[ModeRun] = []
    records = ExchangeFile(plan.out / "requests.jsonl")
    try:
        for repeat in range(plan.repeat):
            for mode in plan.modes:
                run = ModeRun(mode, repeat, server_command(plan, mode, repeat))
                runs.append(run)
                view.mode_started(mode, repeat)
                _run_mode(plan, run, view, records)
                view.mode_ended(run)
                on_run(runs)
                started = [run for run in runs if not run.unavailable]
                if run.interrupted or (started and not any(run.records for run in started)):
                    return runs
    finally:
        records.close()
    return runs


def _run_mode(plan: ComparePlan, run: ModeRun, view: View, file: ExchangeFile) -> None:
    """Start the mode's server, measure, stop it; everything that goes wrong ends up in `run`."""

    def on_record(record: Exchange) -> None:
        run.records.append(record)
        file.write(run.mode.name, run.repeat, record)
        view.recorded(record)

    try:
        with running(run.command) as server:
            run.start_up_s = server.wait_ready(READY_TIMEOUT_S, view.waiting)
            _measure(plan, run, server, view, on_record)
    except ServerFailed as failure:
        run.failure = failure
        if run.start_up_s is not None:
            _record_unsent(plan, run, on_record)
    except KeyboardInterrupt:
        run.interrupted = True


def _measure(
    plan: ComparePlan,
    run: ModeRun,
    server: Server,
    view: View,
    on_record: Callable[[Exchange], None],
) -> None:
    """Warm up, replay the conversations, and note where the prompt tokens came from, also when
    interrupted.
    """
    import httpx

    target = Target(server.command.url, plan.model, plan.seed)
    _warm_up(target, server)
    try:
        before = read_counters(target.url)
    except httpx.HTTPError as error:
        asyncio.run(_check_dying(server))
        raise server.failure(f"its /metrics cannot be read: {error}") from error
    view.measuring()
    try:
        asyncio.run(
            _replay_watched(target, Replay(plan.conversations, plan.concurrency, on_record), server)
        )
        if any(record.error for record in run.records):
            asyncio.run(_check_dying(server))
    finally:
        after = None
        with contextlib.suppress(httpx.HTTPError):
            after = read_counters(target.url)
            if after is None and run.mode.pensieve is not None:
                run.stepped_back = why_stepped_back(server.command.log)
        run.prompt_tokens = prompt_tokens_by_source(run.records, before, after)
        run.cache = cache_numbers(before, after, _block_gb(plan))


def why_stepped_back(log: Path) -> str:
    """Return what the plugin said in a server's log of why it leaves prefixes to vLLM."""
    said = re.findall(
        r"Pensieve: (?:plain prefixes|vLLM's own scheduler).*?because (.+)",
        log.read_text(errors="replace"),
    )
    return said[-1].strip() if said else f"its counters are missing from /metrics; see {log}"


def _block_gb(plan: ComparePlan) -> float | None:
    """GB of one block on all workers; None where it is not known."""
    size = value_of(plan.server_options, "--block-size") or str(BLOCK_TOKENS)
    try:
        token_gb = kv_gb_per_token(plan.model, value_of(plan.server_options, "--dtype"))
        return token_gb * int(size)
    except (UsageError, ValueError):
        return None


def _warm_up(target: Target, server: Server) -> None:
    import openai

    try:
        asyncio.run(warm_up(target))
    except openai.OpenAIError as error:
        asyncio.run(_check_dying(server))
        raise server.failure(f"the warm-up request failed: {error}") from error


async def _replay_watched(target: Target, plan: Replay, server: Server) -> None:
    """Replay, but give up as soon as the server's process has ended (raises ServerFailed)."""
    requests = asyncio.create_task(replay(target, plan))
    try:
        while not requests.done():
            await asyncio.wait({requests}, timeout=WATCH_S)
            server.check_alive()
        await requests
    finally:
        requests.cancel()


async def _check_dying(server: Server) -> None:
    """Raise ServerFailed if the process ends within `DYING_S`."""
    for _ in range(round(DYING_S / WATCH_S)):
        server.check_alive()
        await asyncio.sleep(WATCH_S)


def _record_unsent(plan: ComparePlan, run: ModeRun, on_record: Callable[[Exchange], None]) -> None:
    """Count every request that a dead server kept from being answered as failed."""
    known = {(record.session, record.turn) for record in run.records}
    for conversation in plan.conversations:
        for turn in range(1, len(conversation.turns) + 1):
            if (conversation.session_id, turn) not in known:
                on_record(
                    Exchange(
                        conversation.session_id, turn, 0.0, error=f"not answered: {run.failure}"
                    )
                )
