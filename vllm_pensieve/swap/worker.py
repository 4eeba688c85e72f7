"""A worker's side of the host tier: carries out each step's plan on its part of the KV cache."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import torch
from vllm.logger import init_logger

from vllm_pensieve.space.swap_plan import SwapPlan
from vllm_pensieve.swap.checksums import SlotChecksums
from vllm_pensieve.swap.copiers import Copier, CopyError, make_copier
from vllm_pensieve.swap.host_memory import ALONE, Workers, allocate_slots
from vllm_pensieve.swap.layout import block_rows

logger = init_logger("vllm.pensieve")

MEASURED_BYTES = 32 * 2**20
"""Of blocks copied to measure how fast loads are."""

NO_PLAN = SwapPlan()


class SwapWorker:
    """Copies between the blocks of one worker's KV cache and its slots of host memory.

    A copy that fails, or does not have the checksum it was stored with, is reported and never served: the slot is bad
    until something is stored in it, and a load from a bad slot fails.

    load_bytes_per_s: how fast copies from host memory are, measured before anything is served.
    layers: index of a layer's copy by the layer's name.
    unannounced: how many of the copies, the first ones, are of layers for which nobody calls `wait_for_layer`.
    checksums: of what was stored in each slot, or None to trust host memory.
    """

    def __init__(
        self,
        copier: Copier,
        layers: Mapping[str, int],
        unannounced: int,
        checksums: SlotChecksums | None,
    ) -> None:
        self.copier = copier
        self.load_bytes_per_s: float | None = None
        self._layers = layers
        self._unannounced = unannounced
        self._checksums = checksums
        self._plan = NO_PLAN
        self._ahead: Sequence[tuple[int, int]] = ()  # begun in the step before
        self._prefetching: Sequence[tuple[int, int]] = ()  # begun in the step before
        self._loading: Sequence[tuple[int, int]] = ()
        self._bad_slots: set[int] = set()
        self._new_bad_slots: set[int] = set()
        self._changed_slots: set[int] = set()
        self._load_wait_s = 0.0
        self._bad_blocks: set[int] = set()

    @classmethod
    def over(
        cls,
        unannounced: Mapping[str, torch.Tensor],
        announced: Mapping[str, torch.Tensor],
        num_blocks: int,
        num_slots: int,
        verify: bool,
        workers: Workers = ALONE,
    ) -> SwapWorker:
        """For a worker's KV cache, as vLLM registers it, by layer name in the order in which it is to be loaded.

        unannounced: of layers that are read without a call of `wait_for_layer`.
        workers: of this engine on this machine; all of them call this now.

        Raises:
            UnaddressableLayoutError: blocks cannot be copied as bytes.
            NotEnoughHostMemoryError: there is not that much host memory.
        """
        rows: list[torch.Tensor] = []
        layers: dict[str, int] = {}
        row_of: dict[int, int] = {}  # by address: layers may share one cache
        kv_caches = {**unannounced, **announced}
        for name, layer_rows in block_rows(kv_caches, num_blocks).items():
            address = layer_rows.data_ptr()
            if address not in row_of:
                row_of[address] = len(rows)
                rows.append(layer_rows)
            layers[name] = row_of[address]
        slots = allocate_slots(
            num_slots,
            [row.shape[1] for row in rows],
            pin=rows[0].device.type == "cuda",
            workers=workers,
        )
        slot_bytes = sum(row.shape[1] for row in rows)
        logger.info(
            "Pensieve: %.2f GiB of host memory for %d blocks of %d KiB",
            num_slots * slot_bytes / 2**30,
            num_slots,
            slot_bytes // 1024,
        )
        copier = make_copier(rows, slots)
        worker = cls(
            copier,
            layers,
            len({layers[name] for name in unannounced}),
            SlotChecksums(slots) if verify else None,
        )
        most = min(num_blocks, num_slots, MEASURED_BYTES // slot_bytes)
        if most:
            with suppress(CopyError):
                worker.load_bytes_per_s = most * slot_bytes / load_seconds(copier, most)
        return worker

    # -- a step, in this order

    def begin_step(self, plan: SwapPlan) -> None:
        """Save what this step overwrites. Nothing of the step has been launched yet."""
        self._plan = plan
        try:
            self.copier.fence()
            self._stored(self._ahead)
        except CopyError as error:
            self._store_failed(self._ahead, error)
            self._load_failed(self._prefetching, error)
        self._ahead = self._prefetching = ()
        if plan.stores:
            try:
                self.copier.store(plan.stores)
                self._stored(plan.stores)
            except CopyError as error:
                self._store_failed(plan.stores, error)
        if not plan.loads:
            self._begin_background()

    def begin_loads(self, layer_by_layer: bool) -> None:
        """Begin to bring in what this step reads.

        layer_by_layer: whether `wait_for_layer` will be called before each layer reads; else all must be there before
        anything that is launched from now on.
        """
        self._loading = self._loadable(self._plan.loads)
        if self._loading:
            try:
                with self._waiting_for_loads():
                    self.copier.load(self._loading)
                    if not layer_by_layer:
                        self.copier.wait_for_load()
                    elif self._unannounced:
                        self.copier.wait_for_layer(self._unannounced - 1)
            except CopyError as error:
                self._load_failed(self._loading, error)
                self._loading = ()
        if self._plan.loads:
            self._begin_background()

    def wait_for_layer(self, name: str) -> None:
        """Before this layer reads its KV cache."""
        if self._loading:
            try:
                with self._waiting_for_loads():
                    if name in self._layers:
                        self.copier.wait_for_layer(self._layers[name])
                    else:  # one that reads the cache of another layer
                        self.copier.wait_for_load()
            except CopyError as error:
                self._load_failed(self._loading, error)
                self._loading = ()

    def end_step(self) -> None:
        """The forward pass has been launched, or there is none."""
        if self._loading:
            try:
                with self._waiting_for_loads():
                    self.copier.wait_for_load()
            except CopyError as error:
                self._load_failed(self._loading, error)
                self._loading = ()
            self._loading = ()
        self._plan = NO_PLAN

    @contextmanager
    def _waiting_for_loads(self) -> Iterator[None]:
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self._load_wait_s += time.perf_counter() - began_s

    def _begin_background(self) -> None:
        """Before the forward pass is launched, after this step's loads: so the copies are made alongside it."""
        self._prefetching = self._loadable(self._plan.prefetches)
        if self._prefetching:
            try:
                self.copier.load_ahead(self._prefetching)
            except CopyError as error:
                self._load_failed(self._prefetching, error)
                self._prefetching = ()
        if self._plan.ahead:
            self._ahead = self._plan.ahead
            try:
                self.copier.store_ahead(self._ahead)
            except CopyError as error:
                self._store_failed(self._ahead, error)
                self._ahead = ()

    # -- how it went

    def take_load_wait(self) -> float:
        """Seconds that the caller's thread waited for loads since the last call. On a GPU streams wait, not threads."""
        waited_s, self._load_wait_s = self._load_wait_s, 0.0
        return waited_s

    def take_bad_blocks(self) -> set[int]:
        """Blocks that should have been loaded and were not, since the last call."""
        bad, self._bad_blocks = self._bad_blocks, set()
        return bad

    def take_bad_slots(self) -> set[int]:
        """Slots that became bad since the last call."""
        bad, self._new_bad_slots = self._new_bad_slots, set()
        return bad

    def take_changed_slots(self) -> set[int]:
        """Slots that did not have their checksum since the last call."""
        changed, self._changed_slots = self._changed_slots, set()
        return changed

    def _loadable(self, loads: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        bad = {slot for slot, _ in loads if slot in self._bad_slots}
        if self._checksums is not None and loads:
            self.copier.synchronize()
            mismatched = self._checksums.mismatched(slot for slot, _ in loads if slot not in bad)
            if mismatched:
                logger.error(
                    "Pensieve: checksum mismatch in %d blocks in host memory", len(mismatched)
                )
                self._changed_slots |= mismatched
            bad |= mismatched
        if not bad:
            return loads
        self._mark_bad(bad)
        self._bad_blocks |= {block for slot, block in loads if slot in bad}
        return [(slot, block) for slot, block in loads if slot not in bad]

    def _stored(self, copies: Sequence[tuple[int, int]]) -> None:
        slots = [slot for _, slot in copies]
        self._bad_slots.difference_update(slots)
        if self._checksums is not None and slots:
            self.copier.synchronize()
            self._checksums.record(slots)

    def _store_failed(self, copies: Sequence[tuple[int, int]], error: CopyError) -> None:
        if copies:
            logger.error("Pensieve: %d blocks are not in host memory: %s", len(copies), error)
            self._mark_bad(slot for _, slot in copies)

    def _load_failed(self, loads: Sequence[tuple[int, int]], error: CopyError) -> None:
        if loads:
            logger.error("Pensieve: %d blocks will be computed again: %s", len(loads), error)
            self._mark_bad(slot for slot, _ in loads)
            self._bad_blocks |= {block for _, block in loads}

    def _mark_bad(self, slots: Iterable[int]) -> None:
        new = set(slots)
        self._bad_slots |= new
        self._new_bad_slots |= new

    def close(self) -> None:
        """Wait for all copies and give back what copying needs."""
        self.copier.close()


def load_seconds(copier: Copier, blocks: int) -> float:
    """How long it takes to load that many blocks: the first ones, which keep what they hold."""
    copier.store([(i, i) for i in range(blocks)])
    seconds = []
    for _ in range(2):  # the first touches the memory
        copier.synchronize()
        began_s = time.perf_counter()
        copier.load_ahead([(i, i) for i in range(blocks)])
        copier.synchronize()
        seconds.append(time.perf_counter() - began_s)
    copier.fence()
    return seconds[-1]
