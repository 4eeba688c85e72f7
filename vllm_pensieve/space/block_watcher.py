"""What a block pool reports of its cached blocks to whoever follows them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeAlias

Evicted: TypeAlias = tuple[int, Hashable, int, float]
"""A block that is overwritten in the step being built: block, key, blocks before it, when it was last used (s)."""


class BlockWatcher:
    """Hears of blocks as they come and go; does nothing with it.

    A block's key names its content and all that stands before it; several blocks may hold the same. Positions are the
    blocks before a block in its sequence.
    """

    def cached(self, request_id: str, block_id: int, key: Hashable, position: int) -> None:
        """A block in use counts from now on as holding what the key names."""

    def idle(
        self,
        block_ids: Sequence[int],
        keys: Sequence[Hashable],
        positions: Sequence[int],
        now_s: float,
    ) -> None:
        """Cached blocks fell out of use, the deepest of their sequence first."""

    def in_use(self, block_id: int, key: Hashable) -> None:
        """An unused cached block is used again."""

    def overwritten(self, block_id: int) -> None:
        """A cached block no longer counts as such: it is given out anew, or its content is not good."""

    def evicted(self, blocks: Sequence[Evicted]) -> None:
        """Of these keys the last block in GPU memory is given out anew; its content is there until the step begins."""

    def content_lost(self, key: Hashable) -> None:
        """The last block that counted as holding what the key names does so no more."""

    def clear(self) -> None:
        """Nothing counts as cached any more."""
