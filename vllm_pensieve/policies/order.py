"""A policy as a server uses it: blocks (or slots) come, go and are evicted many at a time, each time in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.policies.compiled import compiled
from vllm_pensieve.policies.policy import Cache, Policy, sources_digest
from vllm_pensieve.policies.queues import IN_USE, QUEUE
from vllm_pensieve.policies.registry import load_policy, served

Ids = Sequence[int] | NDArray[np.int32]


class Order:
    """Which of the blocks that nobody uses leaves first. A block is known by its id, 0 .. ids - 1.

    An id is inserted when its block falls out of use, removed when the block is used again, and evicted at most once
    per insertion. What a policy remembers of a block in use lasts until the block is evicted or forgotten. Times
    are seconds of one clock.

    position: [ids], blocks before it in its sequence, and last_use_s: [ids], as of its last insertion.
    """

    def __init__(self, policy: Policy, settings: Cache) -> None:
        assert policy.choose is not None and policy.forget is not None, policy
        self.position = np.zeros(settings.ids, np.int32)
        self.last_use_s = np.zeros(settings.ids)
        self._state = policy.new_state(settings)
        self._positions = len(settings.costs)
        self._table: NDArray[np.int32] = self._state.queues.table
        self._length = 0
        self._deepest_first = policy.deepest_first
        self._is_compiled = False
        self._compiled = _compile(
            policy.remove,
            policy.evict,
            policy.insert,
            policy.choose,
            policy.forget,
            policy.deepest_first,
            sources_digest(),
        )
        self._compile_now()

    def _compile_now(self) -> None:
        """So that the first request need not wait for it."""
        self.insert([], [], 0.0)
        self.remove([])
        self.forget([])
        self.evict(0, 0.0)
        self.take(0, 0.0)
        self._is_compiled = True

    def insert(
        self, ids: Ids, positions: Ids, last_use_s: float | Sequence[float] | NDArray[np.float64]
    ) -> None:
        """Add blocks, those of one sequence the deepest first, as vLLM frees them.

        last_use_s: of all of them, or of each.

        Raises:
            KeyError: one is here already. IndexError: a position is beyond those that have a cost.
        """
        if not len(ids) and self._is_compiled:
            return
        blocks = _array(ids)
        depths = _array(positions)
        uses_s = np.ascontiguousarray(last_use_s, np.float64)  # at least one entry
        assert len(blocks) == len(depths) and len(uses_s) in (1, len(blocks))
        self._compiled.insert(
            self._state, self.position, self.last_use_s, self._positions, blocks, depths, uses_s
        )
        self._length += len(blocks)

    def append(self, ids: Ids, positions: Ids, last_uses_s: Sequence[float]) -> None:
        """Add blocks one after the other, as if each had been inserted alone."""
        step = 1 if self._deepest_first else -1
        self.insert(ids[::step], positions[::step], last_uses_s[::step])

    def remove(self, ids: Ids) -> None:
        """Take blocks out because they are used again. KeyError if one is not here."""
        if not len(ids) and self._is_compiled:
            return
        self._compiled.remove(self._state, _array(ids))
        self._length -= len(ids)

    def evict(self, count: int, now_s: float) -> list[int]:
        """Take out and return the `count` blocks worth least, the least first, and remember nothing of them.

        Raises:
            ValueError: fewer than `count` blocks are here; nothing was taken out.
        """
        if not count and self._is_compiled:
            return []
        if count > self._length:
            raise ValueError(f"{count} blocks to evict, but only {self._length} can be evicted")
        victims: list[int] = self._compiled.evict(self._state, count, float(now_s)).tolist()
        self._length -= count
        return victims

    def take(self, count: int, now_s: float) -> list[int]:
        """As `evict` (fewer if there are fewer), but what is remembered stays, as if the blocks were used again."""
        count = min(count, self._length)
        taken: list[int] = self._compiled.take(self._state, count, float(now_s)).tolist()
        self._length -= count
        return taken

    def peek(self, count: int, now_s: float) -> list[int]:
        """What `evict` would return (fewer if there are fewer); changes nothing. O(ids)."""
        peeked: list[int] = self._compiled.take(
            _copy(self._state), min(count, self._length), float(now_s)
        ).tolist()
        return peeked

    def forget(self, ids: Ids) -> None:
        """The content of these blocks is gone, whether they are here or in use: remember nothing of them."""
        self._length -= self._compiled.forget(self._state, _array(ids))

    def clear(self) -> None:
        """Forget every block."""
        self.forget(np.arange(len(self.position), dtype=np.int32))

    def __len__(self) -> int:
        return self._length

    def __contains__(self, block: int) -> bool:
        return bool(self._table[block, QUEUE] > 0 and self._table[block, IN_USE] == 0)

    def check_integrity(self) -> None:
        """AssertionError if the structures inside contradict each other. For tests: takes time O(ids)."""
        here = [block for block in range(len(self.position)) if block in self]
        assert len(here) == self._length
        assert sorted(self.peek(self._length, np.inf)) == here


def make_order(name: str, settings: Cache) -> Order:
    """A new, empty order by the policy that servers call so. KeyError if there is none of this name."""
    policy = load_policy(served()[name])
    assert isinstance(policy, Policy), name
    return Order(policy, settings)


class _Compiled(NamedTuple):
    insert: Callable[..., None]
    remove: Callable[..., None]
    evict: Callable[..., NDArray[np.int32]]
    take: Callable[..., NDArray[np.int32]]
    forget: Callable[..., int]


@cache
def _compile(
    remove_one: Callable[..., None],
    evict_one: Callable[..., int],
    insert_one: Callable[..., None],
    choose_one: Callable[..., int],
    forget_one: Callable[..., None],
    deepest_first: bool,
    sources: str,
) -> _Compiled:
    """The loops over many blocks for one policy. `sources` is in them only to be part of their key on disk."""

    @compiled
    def insert(
        state: Any,
        position: NDArray[np.int32],
        last_use_s: NDArray[np.float64],
        known_positions: int,
        ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        uses_s: NDArray[np.float64],
    ) -> None:
        assert sources
        table = state.queues.table
        for step in range(len(ids)):
            i = step if deepest_first else len(ids) - 1 - step
            block = ids[i]
            if table[block, QUEUE] > 0 and table[block, IN_USE] == 0:
                raise KeyError("a block to insert is here already")
            if positions[i] >= known_positions:
                raise IndexError("the position of a block is beyond those that have a cost")
            position[block] = positions[i]
            last_use_s[block] = uses_s[min(i, len(uses_s) - 1)]
            insert_one(state, block, positions[i], last_use_s[block])
            table[block, IN_USE] = 0

    @compiled
    def remove(state: Any, ids: NDArray[np.int32]) -> None:
        assert sources
        table = state.queues.table
        for block in ids:
            if table[block, QUEUE] <= 0 or table[block, IN_USE]:
                raise KeyError("a block to remove is not here")
            remove_one(state, block)
            table[block, IN_USE] = 1

    @compiled
    def evict(state: Any, count: int, now_s: float) -> NDArray[np.int32]:
        assert sources
        evicted = np.empty(count, np.int32)
        for i in range(count):
            evicted[i] = evict_one(state, -1, now_s)
        return evicted

    @compiled
    def take(state: Any, count: int, now_s: float) -> NDArray[np.int32]:
        assert sources
        taken = np.empty(count, np.int32)
        for i in range(count):
            taken[i] = choose_one(state, now_s)
            remove_one(state, taken[i])
            state.queues.table[taken[i], IN_USE] = 1
        return taken

    @compiled
    def forget(state: Any, ids: NDArray[np.int32]) -> int:
        assert sources
        table = state.queues.table
        taken_out = 0
        for block in ids:
            if table[block, QUEUE] > 0:
                if table[block, IN_USE] == 0:
                    remove_one(state, block)
                    taken_out += 1
                forget_one(state, block)
                table[block, IN_USE] = 0
        return taken_out

    return _Compiled(insert, remove, evict, take, forget)


def _array(ids: Ids) -> NDArray[np.int32]:
    """Always of one type and layout: the loops are compiled for it."""
    return np.ascontiguousarray(ids, np.int32)


def _copy(state: Any) -> Any:
    """Of a named tuple of arrays, numbers and more such tuples."""
    if isinstance(state, tuple):
        return type(state)(*map(_copy, state))
    return state.copy() if isinstance(state, np.ndarray) else state
