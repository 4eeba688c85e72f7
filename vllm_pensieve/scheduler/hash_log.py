"""Which blocks were hashed for which request in the steps whose outcome is not known yet.

A block gets its hash when the step that fills it is scheduled. Should that step's load from host memory turn out bad,
the block, all that was computed on it, and what others did with either must be taken back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from typing_extensions import override

from vllm_pensieve.space.block_watcher import BlockWatcher


class Hashed(NamedTuple):
    """A block that was given a hash (its key) for a request."""

    request_id: str
    block_id: int
    key: Hashable


class HashLog(BlockWatcher):
    """The entries of every step in flight, the oldest first, and of the step being built."""

    def __init__(self) -> None:
        self._steps: deque[list[Hashed]] = deque()
        self._current: list[Hashed] = []

    @override
    def cached(self, request_id: str, block_id: int, key: Hashable, position: int) -> None:
        self._current.append(Hashed(request_id, block_id, key))

    def step_scheduled(self) -> None:
        """The step being built goes to the workers."""
        self._steps.append(self._current)
        self._current = []

    def step_done(self) -> None:
        """The oldest step in flight had no bad load, or what it led to has been taken back."""
        self._steps.popleft()

    @property
    def steps_in_flight(self) -> int:
        """Steps that went to the workers and are not done."""
        return len(self._steps)

    def entries(self) -> list[Hashed]:
        """Everything since the oldest step in flight was built."""
        return [entry for step in (*self._steps, self._current) for entry in step]


def tainted(
    bad_blocks: Iterable[int], log: Sequence[Hashed], tables: Mapping[str, Sequence[int]]
) -> tuple[set[str], list[Hashed]]:
    """What a bad load spoiled: the requests that use spoiled blocks, and the log's entries for spoiled content.

    bad_blocks: blocks that hold something else than their hash says. tables: blocks of every running request. Of a
    request that runs no more it is not known what it used, so everything logged for it counts as spoiled; so does
    whatever was logged under the key of a spoiled block, since it may have been copied from there.
    """
    spoiled = set(bad_blocks) | {e.block_id for e in log if e.request_id not in tables}
    requests: set[str] = set()
    while True:
        requests_before, spoiled_before = len(requests), len(spoiled)
        requests |= {r for r, table in tables.items() if not spoiled.isdisjoint(table)}
        keys = {e.key for e in log if e.block_id in spoiled}
        spoiled |= {e.block_id for e in log if e.request_id in requests or e.key in keys}
        if (requests_before, spoiled_before) == (len(requests), len(spoiled)):
            return requests, [entry for entry in log if entry.block_id in spoiled]
