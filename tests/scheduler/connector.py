"""A KV connector that brings a fixed number of tokens behind the local prefix, on the fake device."""

from typing import Any

from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
)

from vllm_pensieve.testing.device import FakeDevice


def bringing(tokens: int, asynchronously: bool) -> KVTransferConfig:
    return KVTransferConfig(
        kv_connector="TailConnector",
        kv_connector_module_path=__name__,
        kv_role="kv_both",
        kv_connector_extra_config={"tokens": tokens, "asynchronously": asynchronously},
    )


class TailConnector(KVConnectorBase_V1):
    """Every request finds the tokens once. `device` is set by the test."""

    device: FakeDevice

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.options = vllm_config.kv_transfer_config.kv_connector_extra_config
        self.starts: dict[str, int] = {}  # where a request's tail begins, behind its local prefix
        self.loaded: set[str] = set()

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int, bool]:
        if (
            request.request_id in self.loaded
            or num_computed_tokens + self.options["tokens"] >= request.num_tokens
        ):
            return 0, False
        self.starts[request.request_id] = num_computed_tokens
        return self.options["tokens"], self.options["asynchronously"]

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if not num_external_tokens:
            return
        self.loaded.add(request.request_id)
        size, start = self.device.block_tokens, self.starts[request.request_id]
        hashes = self.device.hashes(request.all_token_ids[:])
        for index in range(start // size, (start + num_external_tokens) // size):
            block = blocks.get_block_ids()[0][index]
            self.device.contents(block)[:] = hashes[index * size : (index + 1) * size]

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return KVConnectorMetadata()

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None: ...

    def wait_for_layer_load(self, layer_name: str) -> None: ...

    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None: ...

    def wait_for_save(self) -> None: ...
