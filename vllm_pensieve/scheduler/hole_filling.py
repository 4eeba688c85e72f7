"""vLLM's attention manager, for computed prefixes with holes: what is missing is counted and filled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from typing_extensions import override
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager

from vllm_pensieve.scheduler.made_anew import made_anew

if TYPE_CHECKING:
    from vllm.v1.core.kv_cache_utils import KVCacheBlock

    from vllm_pensieve.scheduler.kv_cache_manager import PensieveKVCacheManager


class HoleFillingManager(FullAttentionManager):
    """A FullAttentionManager that takes a null block in a computed prefix for one that is missing.

    vLLM calls what is overridden here when a request is admitted, and not for those that run.
    """

    @classmethod
    def adopt(cls, manager: PensieveKVCacheManager) -> HoleFillingManager:
        """One of ours in place of the only one that a manager's coordinator has."""
        (stock,) = manager.coordinator.single_type_managers
        attention = made_anew(cls, stock)
        attention._manager = manager
        manager.coordinator.single_type_managers = (attention,)
        return attention

    @override
    @classmethod
    def _get_num_evictable_blocks(cls, blocks: Sequence[KVCacheBlock]) -> int:
        """How many free blocks a computed prefix takes: those that nobody uses, and one for each that is missing."""
        return len([block for block in blocks if not block.ref_cnt or block.is_null])

    @override
    def add_local_computed_blocks(
        self,
        request_id: str,
        new_computed_blocks: Sequence[KVCacheBlock],
        num_local_computed_tokens: int,
        num_external_computed_tokens: int,
    ) -> None:
        """The request is admitted: stock's gates have said yes."""
        restoring = self._manager.restoring.get(request_id)
        if restoring is None:
            super().add_local_computed_blocks(
                request_id,
                new_computed_blocks,
                num_local_computed_tokens,
                num_external_computed_tokens,
            )
            return
        resident = [block for block in new_computed_blocks if not block.is_null]
        super().add_local_computed_blocks(
            request_id, resident, len(resident) * self.block_size, num_external_computed_tokens
        )
        table = self._manager.restore(request_id, restoring, resident)
        self.req_to_blocks[request_id][:] = table
        self.num_cached_block[request_id] = len(table)
