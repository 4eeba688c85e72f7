"""The eviction orders by name."""

from __future__ import annotations

from vllm_pensieve.retention.cost_model import CostModel
from vllm_pensieve.retention.eviction_order import EvictionOrder
from vllm_pensieve.retention.fifo import FifoOrder
from vllm_pensieve.retention.lru import LruOrder
from vllm_pensieve.retention.value import RetentionOrder

EVICTION_POLICIES = (RetentionOrder.name, LruOrder.name, FifoOrder.name)


def make_order(
    name: str, cost_model: CostModel, block_size: int, cost_bucket_ratio: float
) -> EvictionOrder:
    """A new, empty order. ValueError if there is none of this name."""
    if name == RetentionOrder.name:
        return RetentionOrder(cost_model, block_size, cost_bucket_ratio)
    if name == LruOrder.name:
        return LruOrder()
    if name == FifoOrder.name:
        return FifoOrder()
    raise ValueError(
        f"no eviction policy is called {name!r}; choose from: {', '.join(EVICTION_POLICIES)}"
    )
