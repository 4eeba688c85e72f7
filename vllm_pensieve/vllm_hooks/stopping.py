"""The end of an engine that records a trace: the trace ends first, draining ends in time, and vLLM waits for both."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any

from vllm.logger import init_logger
from vllm.v1.request import RequestStatus

from vllm_pensieve.trace.files import BLOCKS_SUFFIX

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

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


def leave_time_for_traces(seconds: float) -> None:
    """Have vLLM's front end kill no engine process before its trace is written, within that many seconds. Idempotent.

    By default vLLM kills engine processes in the instant that it asks them to stop. They get as long as they write a
    trace; where they get time to drain their requests, they get the seconds more.
    """
    from vllm.v1.engine.utils import CoreEngineProcManager

    stock = CoreEngineProcManager.shutdown
    if getattr(stock, "leaves_time_for_traces", False):
        return

    @wraps(stock)
    def shutdown(self: Any, timeout: float | None = None) -> None:
        if timeout == 0 and self._finalizer.alive:
            wait_for_traces(self.processes, seconds)
        stock(self, timeout + seconds if timeout else timeout)

    shutdown.leaves_time_for_traces = True  # type: ignore[attr-defined]
    CoreEngineProcManager.shutdown = shutdown


def wait_for_traces(processes: Iterable[BaseProcess], seconds: float) -> None:
    """Ask processes to stop, and wait until none of them has a trace open any more, at most that many seconds."""
    alive = [process for process in processes if process.is_alive()]
    for process in alive:
        process.terminate()
    deadline_s = time.monotonic() + seconds
    while (
        any(_has_a_trace_open(process.pid) for process in alive) and time.monotonic() < deadline_s
    ):
        time.sleep(0.02)


def _has_a_trace_open(pid: int | None) -> bool:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):  # the process has ended
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):  # that file has been closed
                path = os.readlink(f"{folder}/{name}").removesuffix(" (deleted)")
                if path.endswith(BLOCKS_SUFFIX):
                    return True
    return False
