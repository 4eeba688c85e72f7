"""A process for each side of scripts/step_time.py: it works when it is asked to, and waits meanwhile."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import signal
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_pensieve.testing import environment

if TYPE_CHECKING:
    from step_time_attribution import Attribution
    from step_time_traffic import Traffic


class SideProcess:
    """The parent's end. `ask` returns when the side has done what it was asked to do."""

    def __init__(self, side: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.side = side
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, side), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, what: str, *arguments: Any) -> Any:
        """Call a method of `_Side` there. Raises SystemExit if the process has ended."""
        try:
            self._connection.send((what, arguments))
            return self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            raise SystemExit(
                f"step_time: the process of {self.side!r} ended with exit status {code} while it was to do "
                f"{what!r}; what went wrong stands above"
            ) from None

    def close(self) -> None:
        self._connection.close()
        self._process.join()


def _work(connection: Connection, side: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it ends us
    environment.apply()
    logging.getLogger("vllm").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        worker = _Side(side, Path(folder))
        while True:
            try:
                what, arguments = connection.recv()
            except EOFError:
                return
            connection.send(getattr(worker, what)(*arguments))


class _Side:
    """The side's end: what it can be asked to do."""

    traffic: Traffic
    attribution: Attribution

    def __init__(self, side: str, folder: Path) -> None:
        # All sides import what takes seconds at the same time, before any is asked for something that is timed.
        import transformers

        import vllm_pensieve.testing.world  # noqa: F401

        transformers.utils.logging.disable_progress_bar()
        self.side = side
        self.folder = folder

    def begin_traffic(self, running: int, idle: int) -> None:
        """Serve conversations until each has returned once, so that memory is full and code is warm."""
        from step_time_traffic import Traffic

        self.traffic = Traffic(self.side, self._model(4096), running, idle)
        for _ in range(self.traffic.every_session_once()):
            self.traffic.step()
        gc.collect()
        gc.freeze()

    def make_steps(self, count: int) -> list[tuple[float, float]]:
        """Seconds and CPU seconds of each."""
        times = [self.traffic.step() for _ in range(count)]
        return [(time.total_s, time.cpu_s) for time in times]

    def attribute(self) -> None:
        """From now on, measure where the time of steps goes."""
        from step_time_attribution import Attribution

        self.attribution = Attribution(self.traffic.world)

    def attributed(self) -> dict[str, tuple[int, float]]:
        """Calls and own CPU seconds of each function since `attribute`."""
        own_s = self.attribution.own_s
        return {name: (self.attribution.calls[name], own_s[name]) for name in own_s}

    def returning_session(self, context_tokens: int) -> dict[str, dict[str, float]]:
        from step_time_session import returning_session

        return returning_session(self.side, self._model(2 * context_tokens), context_tokens)

    def _model(self, context_tokens: int) -> Path:
        from vllm_pensieve.testing.models import make_llama

        folder = self.folder / str(context_tokens)
        return folder if folder.exists() else make_llama(folder, context_tokens)
