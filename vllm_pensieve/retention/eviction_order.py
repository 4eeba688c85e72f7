"""The contract of an eviction order: which of the cached blocks that nobody uses leaves first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class EvictionOrder(ABC):
    """Orders evictable blocks. Holds keys and order only; it neither owns nor copies a block.

    A key is inserted when its block falls out of use, removed when the block is used again, and evicted at most once
    per insertion. Times are seconds of one monotonic clock.
    """

    name: str

    @abstractmethod
    def insert(self, keys: Sequence[int], positions: Sequence[int], last_use_s: float) -> None:
        """Add blocks that were last used together, the deepest of their sequence first, as vLLM frees them.

        positions: index in the sequence of each block's first token.
        """

    @abstractmethod
    def remove(self, key: int) -> None:
        """Take a block out because it is used again. KeyError if it is not here."""

    @abstractmethod
    def evict(self, count: int, now_s: float) -> list[int]:
        """Take out and return the `count` blocks worth least, the least first. All or nothing.

        Raises:
            ValueError: fewer than `count` blocks are here; nothing was taken out.
        """

    @abstractmethod
    def peek(self, count: int, now_s: float) -> list[int]:
        """What `evict` would return (fewer if there are fewer); changes nothing."""

    def remember(self, keys: Sequence[int]) -> None:  # noqa: B027 - most orders go by the last use
        """These blocks fell out of use, whether or not they are inserted now."""

    def forget_all(self) -> None:  # noqa: B027
        """The content of every block is gone. No key is here."""

    def forget(self, key: int) -> None:  # noqa: B027 - most orders remember nothing of a block that is not here
        """The block's content is gone; drop what is remembered of it. The key is not here."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, key: int) -> bool: ...

    @abstractmethod
    def check_integrity(self) -> None:
        """AssertionError if the structures inside contradict each other. For tests: may take time O(n)."""

    def _require(self, count: int) -> None:
        if count > len(self):
            raise ValueError(f"{count} blocks to evict, but only {len(self)} can be evicted")
