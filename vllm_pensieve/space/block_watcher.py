"""What a block pool reports of its cached blocks to whoever follows them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Evicted(NamedTuple):
    """Blocks that are overwritten in the step being built, entry i of each field one of them.

    keys: what they hold; no other block in GPU memory does. positions: blocks before each in its sequence.
    last_uses_s: when each was last used.
    """

    block_ids: Sequence[int]
    keys: Sequence[Hashable]
    positions: Sequence[int]
    last_uses_s: Sequence[float]


class BlockWatcher:
    """Hears of blocks as they come and go, many at a time; does nothing with it.

    A block's key names its content and all that stands before it; several blocks may hold the same. Positions are the
    blocks before a block in its sequence.

    asks_others: whether it asks another watcher about what that one has just been notified of.
    """

    asks_others = True

    def hashed(
        self, request_id: str, block_ids: Sequence[int], keys: Sequence[Hashable], first: int
    ) -> None:
        """Blocks in use, from position `first` on, count from now on as holding what the keys name."""

    def freed(
        self,
        block_ids: Sequence[int],
        keys: Sequence[Hashable],
        positions: Sequence[int],
        now_s: float,
    ) -> None:
        """Cached blocks fell out of use, the deepest of their sequence first."""

    def touched(self, block_ids: Sequence[int], keys: Sequence[Hashable]) -> None:
        """Unused cached blocks are used again."""

    def evicted(self, given_out: Sequence[int], last: Evicted) -> None:
        """Cached blocks are given out anew; what they hold is there until the step begins.

        last: those of them of whose content no other block in GPU memory has a copy.
        """

    def content_lost(
        self, block_ids: Sequence[int], keys: Sequence[Hashable], positions: Sequence[int]
    ) -> None:
        """Cached blocks count as such no more, since what they hold is not good or not wanted.

        keys, positions: of what no block holds any more.
        """

    def clear(self) -> None:
        """Nothing counts as cached any more."""
