"""What a tier below GPU memory must do, whatever it is made of."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from typing import Protocol


class Tier(Protocol):
    """Slots that hold copies of blocks, found by the blocks' keys. Decides which copies give way; moves nothing itself.

    A slot is one of: free; a copy of a block that is in GPU memory, too; the only copy. Positions are the blocks before
    a block in its sequence. `space/host_tier.py` is the tier in host memory.

    version: changes whenever `find_all` could give another answer than before.
    only_copies: blocks that are nowhere but here. dropped_blocks: only copies that gave way so far.
    """

    num_slots: int
    version: int
    dropped_blocks: int

    @property
    def only_copies(self) -> int: ...

    @property
    def room(self) -> int:
        """Copies that `store` can take."""

    def find(self, key: Hashable) -> int | None:
        """The slot with a copy of the block of this key, or None."""

    def find_all(self, keys: Sequence[Hashable]) -> list[int | None]:
        """As `find`, for each key."""

    def store(self, keys: Sequence[Hashable], positions: Sequence[int], now_s: float) -> list[int]:
        """Slots for copies of unused blocks in GPU memory, `room` at most."""

    def keep(
        self,
        keys: Sequence[Hashable],
        positions: Sequence[int],
        last_uses_s: Sequence[float],
        now_s: float,
    ) -> list[int | None]:
        """Slots for copies of blocks that leave GPU memory now; None for one that finds no place."""

    def in_use(self, slots: Sequence[int]) -> None:
        """The blocks of these copies are in GPU memory and in use from now on."""

    def idle(self, slots: Sequence[int]) -> None:
        """The blocks of these copies are in GPU memory and fell out of use."""

    def gone(
        self, slots: Sequence[int], positions: Sequence[int], last_uses_s: Sequence[float]
    ) -> None:
        """The blocks of these copies left GPU memory."""

    def hold(self, slots: Sequence[int]) -> None:
        """Keep these only copies from giving way until everyone who holds them has released them."""

    def release(self, slots: Sequence[int]) -> None:
        """Their copies are planned, or they are not wanted after all."""

    def discard(self, slots: Collection[int]) -> None:
        """The copies in these slots are not good, or not wanted: nobody finds them any more."""

    def clear(self) -> None:
        """Give up every copy."""

    def check_integrity(self, idle: bool = False) -> None:
        """AssertionError if the indexes contradict each other. For tests. idle: nothing may be held."""

    def __len__(self) -> int: ...
