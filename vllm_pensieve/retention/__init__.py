"""What a cached block is worth keeping: cost of recomputation and orders of eviction. Knows nothing of vLLM."""

from vllm_pensieve.retention.cost_model import AnalyticCostModel, CostModel, ModelShape
from vllm_pensieve.retention.eviction_order import EvictionOrder
from vllm_pensieve.retention.measured import MeasuredCostModel, PiecewiseLinear
from vllm_pensieve.retention.orders import make_order

__all__ = [
    "AnalyticCostModel",
    "CostModel",
    "EvictionOrder",
    "MeasuredCostModel",
    "ModelShape",
    "PiecewiseLinear",
    "make_order",
]
