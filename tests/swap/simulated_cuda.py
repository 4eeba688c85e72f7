"""A device with streams and no GPU: what is launched runs later, in any order that streams and events allow."""

from __future__ import annotations

import ctypes
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from vllm_pensieve.swap import cuda_copier

Ready = Callable[[], bool]


class Stream:
    """Work in order; each piece runs when the device gets to it and what it waits for is done."""

    def __init__(self, simulation: Simulation) -> None:
        self.work: deque[tuple[Ready, Callable[[], None]]] = deque()
        self._simulation = simulation
        simulation.streams.append(self)

    def launch(self, work: Callable[[], None], ready: Ready = lambda: True) -> None:
        self.work.append((ready, work))

    def wait_event(self, event: Event) -> None:
        mark = event.mark
        if mark is not None:
            self.launch(lambda: None, lambda: mark.is_reached)

    def wait_stream(self, other: Stream) -> None:
        event = Event()
        event.record(other)
        self.wait_event(event)

    def synchronize(self) -> None:
        while self.work:
            self._simulation.run_one()


class Event:
    """What is waited for is the last record before the wait, as on a GPU; without one, nothing."""

    def __init__(self) -> None:
        self.mark: SimpleNamespace | None = None

    def record(self, stream: Stream) -> None:
        self.mark = mark = SimpleNamespace(is_reached=False)
        stream.launch(lambda: setattr(mark, "is_reached", True))


class Simulation:
    """The streams, and a seeded order in which their work runs."""

    def __init__(self, seed: int) -> None:
        self.streams: list[Stream] = []
        self.main = self.current = Stream(self)
        self.copies = 0
        self.fail_copies_after: int | None = None
        self._order = random.Random(seed)

    def run_one(self) -> None:
        """Run the next piece of work of any stream that has one ready. Fails if all wait for one another."""
        ready = [stream for stream in self.streams if stream.work and stream.work[0][0]()]
        assert ready, "the streams wait for one another"
        self._order.choice(ready).work.popleft()[1]()

    def swap_blocks_batch(self, src: torch.Tensor, dst: torch.Tensor, sizes: torch.Tensor) -> None:
        assert {tensor.dtype for tensor in (src, dst, sizes)} == {torch.int64}
        assert len(src) == len(dst) == len(sizes)
        self.copies += 1
        if self.fail_copies_after is not None and self.copies > self.fail_copies_after:
            raise RuntimeError("CUDA error: invalid argument")
        for to, from_, size in zip(dst.tolist(), src.tolist(), sizes.tolist(), strict=True):
            self.current.launch(
                lambda to=to, from_=from_, size=size: ctypes.memmove(to, from_, size)
            )

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


@contextmanager
def simulated_cuda(seed: int) -> Iterator[Simulation]:
    """Let the CUDA copier run on a simulation, over tensors in host memory."""
    simulation = Simulation(seed)
    fakes: dict[str, Any] = {
        "Stream": lambda device: Stream(simulation),
        "Event": Event,
        "current_stream": lambda device: simulation.current,
        "stream": simulation.stream,
    }
    ops = SimpleNamespace(swap_blocks_batch=simulation.swap_blocks_batch)
    with patch.multiple(torch.cuda, **fakes), patch.object(cuda_copier, "ops", ops):
        yield simulation
