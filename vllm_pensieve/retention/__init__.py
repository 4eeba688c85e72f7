"""What a cached block is worth keeping: cost of recomputation and orders of eviction. Knows nothing of vLLM."""

from vllm_pensieve.retention.cost_model import CostModel, ModelShape
from vllm_pensieve.retention.eviction_order import EvictionOrder
from vllm_pensieve.retention.orders import make_order

__all__ = ["CostModel", "EvictionOrder", "ModelShape", "make_order"]
