"""Time that is not waited for: while it is on, a pause moves the process's clocks on instead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

CLOCKS_S = ("time", "monotonic", "perf_counter")
CLOCKS_NS = ("time_ns", "monotonic_ns", "perf_counter_ns")
NS = 1_000_000_000


class VirtualTime:
    """A context in which `time.sleep` returns at once, and the module's clocks show the time it would have taken.

    That holds for pauses of the thread that entered it; other threads' pauses are real ones. What runs meanwhile takes
    its own time. Code that took a clock out of the module before (`from time import monotonic`) keeps the real one.
    """

    def __init__(self) -> None:
        self._skipped_ns = 0
        self._stock: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> VirtualTime:
        assert not self._stock, "virtual time is on already"
        self._thread = threading.get_ident()
        self._stock = {name: getattr(time, name) for name in (*CLOCKS_S, *CLOCKS_NS, "sleep")}
        for name in CLOCKS_S:
            setattr(time, name, self._moved_on(self._stock[name], NS))
        for name in CLOCKS_NS:
            setattr(time, name, self._moved_on(self._stock[name], 1))
        setattr(time, "sleep", self._sleep)  # noqa: B010
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name, stock in self._stock.items():
            setattr(time, name, stock)
        self._stock = {}

    def _moved_on(self, stock: Callable[[], Any], ns_per_unit: int) -> Callable[[], Any]:
        if ns_per_unit == 1:
            return lambda: stock() + self._skipped_ns
        return lambda: stock() + self._skipped_ns / ns_per_unit

    def _sleep(self, seconds: float) -> None:
        if threading.get_ident() != self._thread:
            self._stock["sleep"](seconds)
        elif seconds > 0:
            self._skipped_ns += int(seconds * NS)
