"""A KV connector that stores and brings nothing, so that a scheduler runs vLLM's connector path and no more."""

from __future__ import annotations

from typing import Any

from typing_extensions import override
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    SupportsHMA,
)


def idle_connector() -> KVTransferConfig:
    """What makes vLLM use it."""
    return KVTransferConfig(
        kv_connector=IdleConnector.__name__,
        kv_connector_module_path=__name__,
        kv_role="kv_producer",
    )


class IdleConnector(KVConnectorBase_V1, SupportsHMA):
    """Finds no token of any request, and sends nothing to the workers."""

    @override
    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int, bool]:
        return 0, False

    @override
    def update_state_after_alloc(
        self, request: Any, blocks: Any, num_external_tokens: int
    ) -> None: ...

    @override
    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return KVConnectorMetadata()

    @override
    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return False, None

    @override
    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None: ...

    @override
    def wait_for_layer_load(self, layer_name: str) -> None: ...

    @override
    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None: ...

    @override
    def wait_for_save(self) -> None: ...
