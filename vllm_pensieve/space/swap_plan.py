"""The copies of one engine step, as data: made by the scheduler, carried out alike by every worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SwapPlan:
    """What moves between GPU and host memory in one step, in the order in which a worker begins it.

    stores: (block, slot) of blocks that this step overwrites; made before anything else.
    loads: (slot, block); begun after the stores, done for a layer before the forward pass reads that layer.
    prefetches: (slot, block) of blocks that no step reads before the next one; made alongside the forward pass.
    ahead: (block, slot) of unused blocks that are likely to leave next, which this step does not write; made
        alongside the forward pass, and done before the next step overwrites a block or reads a slot.
    """

    stores: tuple[tuple[int, int], ...] = ()
    loads: tuple[tuple[int, int], ...] = ()
    prefetches: tuple[tuple[int, int], ...] = ()
    ahead: tuple[tuple[int, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stores or self.loads or self.prefetches or self.ahead)

    def check_integrity(self) -> None:
        """AssertionError if a slot or a block is written twice, or an order would be needed that there is not."""
        written_slots = [slot for _, slot in (*self.stores, *self.ahead)]
        assert len(set(written_slots)) == len(written_slots), self
        reads = (*self.loads, *self.prefetches)
        written_blocks = [block for _, block in reads]
        assert len(set(written_blocks)) == len(written_blocks), self
        assert not {block for block, _ in self.ahead} & set(written_blocks), self
        assert not {slot for _, slot in self.ahead} & {slot for slot, _ in reads}, self
