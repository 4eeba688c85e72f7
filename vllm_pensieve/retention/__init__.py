"""What it costs to compute a token again: models of it, and profiles that were measured. Knows nothing of vLLM."""

from vllm_pensieve.retention.cost_model import AnalyticCostModel, CostModel, ModelShape
from vllm_pensieve.retention.measured import MeasuredCostModel, PiecewiseLinear

__all__ = [
    "AnalyticCostModel",
    "CostModel",
    "MeasuredCostModel",
    "ModelShape",
    "PiecewiseLinear",
]
