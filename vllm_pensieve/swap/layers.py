"""Which layers of a model announce that they are about to read their KV cache, and which read it unannounced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from vllm.model_executor.layers.attention import Attention, MLAAttention

Cache = TypeVar("Cache")


def by_announcement(
    kv_caches: Mapping[str, Cache], modules: Mapping[str, object]
) -> tuple[dict[str, Cache], dict[str, Cache]]:
    """The KV caches of layers that read unannounced, and of those that vLLM has call `wait_for_layer_load` before.

    Both are in the order of `modules`, the model's own: what is needed first is loaded first.

    kv_caches: by layer name. modules: the model's layers by name, as vLLM keeps them for the forward pass.
    """
    in_order = [name for name in modules if name in kv_caches]
    in_order += [name for name in kv_caches if name not in modules]
    announced = {name for name in in_order if _announces(modules.get(name))}
    return (
        {name: kv_caches[name] for name in in_order if name not in announced},
        {name: kv_caches[name] for name in in_order if name in announced},
    )


def _announces(module: object) -> bool:
    """Whether reading goes through one of vLLM's two attention functions that call the connector.

    An indexer's cache, say, is read by a kernel of its own before the attention over what it picks.
    """
    forward = getattr(type(module), "forward", None)
    if forward is MLAAttention.forward:
        return not getattr(module, "use_direct_call", False)
    return forward is Attention.forward
