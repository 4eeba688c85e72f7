"""Ctrl-C kept away from where it would do harm."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Ctrl-C takes effect after this, not in it. (Only the main thread ever gets it.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[FrameType | None] = []
    before = signal.signal(signal.SIGINT, lambda _, frame: pressed.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed and callable(before):
            before(signal.SIGINT, pressed[0])


@contextlib.contextmanager
def interrupts_kept_from_children() -> Iterator[None]:
    """Ctrl-C reaches no process or thread that begins in here, and takes effect here after this."""
    with interrupts_held_back():  # threads that are there already may still be sent it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
