"""What is changed in vLLM's classes, and in a library that it trips over; each function is idempotent."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Any

from vllm_pensieve.trace.files import BLOCKS_SUFFIX

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess


def wrap_create_engine_config(before: Callable[[Any], None]) -> None:
    """Have `before(engine_args)` run at the start of every EngineArgs.create_engine_config. Idempotent.

    vLLM loads plugins in workers too, which make no engine arguments and must not be slowed down: where the module is
    not imported there is nothing to wrap. (EngineArgs itself loads the plugins when one is made.)
    """
    module = sys.modules.get("vllm.engine.arg_utils")
    if module is None:
        return
    engine_args_class = module.EngineArgs
    stock = engine_args_class.create_engine_config
    if getattr(stock, "wrapped_by_pensieve", False):
        return

    @wraps(stock)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        before(self)
        return stock(self, *args, **kwargs)

    create_engine_config.wrapped_by_pensieve = True  # type: ignore[attr-defined]
    engine_args_class.create_engine_config = create_engine_config


def announce_environment(names: Iterable[str]) -> None:
    """Tell vLLM that these environment variables are known; it warns of, or refuses, others that begin with VLLM_."""
    from vllm import envs

    for name in names:
        envs.environment_variables.setdefault(name, lambda: None)


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


def let_vllm_scan_llvmlite() -> None:
    """Give llvmlite's library object an instance dictionary, once numba has been imported. Idempotent.

    On a CPU vLLM calls `vars` on the attributes of every module when an engine is made. llvmlite's object answers any
    attribute, so also `__dict__`, with a function of the library, on which vLLM fails.
    """
    from llvmlite.binding import ffi

    class Library(ffi._lib_wrapper):
        pass

    if isinstance(getattr(ffi.lib, "__dict__", None), dict):
        return
    library = Library.__new__(Library)
    for name in ffi._lib_wrapper.__slots__:
        setattr(library, name, getattr(ffi.lib, name))
    ffi.lib = library
