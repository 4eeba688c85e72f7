"""The end of an engine whose scheduler records a trace: the trace ends first, and draining ends in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from vllm.logger import init_logger
from vllm.v1.request import RequestStatus

logger = init_logger("vllm.pensieve")


def end_traces_in_time() -> None:
    """Have the engines of this process end their scheduler's trace before anything else of their end. Idempotent.

    vLLM shuts the executor down first, which waits for the workers, and only then the scheduler; and as soon as an
    engine has left its loop, or has reported its failure to the front end, the next signal kills it. Of an engine that
    drains its requests vLLM says that those left after shutdown_timeout are aborted; in fact the process is killed.
    """
    from vllm.v1.engine.core import EngineCore, EngineCoreProc

    if getattr(EngineCore.shutdown, "ends_traces", False):
        return
    handle_shutdown = EngineCoreProc._handle_shutdown

    @wraps(handle_shutdown)
    def abort_when_time_is_up(self: Any) -> bool:
        goes_on = handle_shutdown(self)
        if not goes_on:
            _end_trace(self)
        elif not self.is_running() and getattr(self.scheduler, "traces", False):
            _abort_if_time_is_up(self)
        return goes_on

    EngineCoreProc._handle_shutdown = abort_when_time_is_up
    EngineCoreProc._send_engine_dead = _after_the_trace(EngineCoreProc._send_engine_dead)
    EngineCore.shutdown = _after_the_trace(EngineCore.shutdown)


def _after_the_trace(stock: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(stock)
    def after_the_trace(self: Any) -> None:
        _end_trace(self)
        stock(self)

    after_the_trace.ends_traces = True  # type: ignore[attr-defined]
    return after_the_trace


def _end_trace(engine: Any) -> None:
    end_trace = getattr(getattr(engine, "scheduler", None), "end_trace", None)
    if end_trace is not None:  # another scheduler has none
        end_trace()


def _abort_if_time_is_up(engine: Any) -> None:
    now_s = time.monotonic()
    if getattr(engine, "pensieve_drains_until_s", None) is None:
        engine.pensieve_drains_until_s = now_s + engine.vllm_config.shutdown_timeout
    if now_s < engine.pensieve_drains_until_s or not engine.scheduler.has_unfinished_requests():
        return
    aborted = engine.scheduler.finish_requests(None, RequestStatus.FINISHED_ABORTED)
    logger.info(
        "Pensieve: %d requests were aborted after %d s, so that the trace can be written",
        len(aborted),
        engine.vllm_config.shutdown_timeout,
    )
    engine._send_abort_outputs(aborted)
