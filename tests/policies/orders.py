"""Orders for tests."""

from vllm_pensieve.policies.order import Order, make_order
from vllm_pensieve.policies.policy import Cache
from vllm_pensieve.policies.registry import served
from vllm_pensieve.retention.cost_model import AnalyticCostModel, CostModel, block_costs

BLOCK = 32
POSITIONS = 4096
SERVED = tuple(served())


def order_of(name: str, ids: int = 64, costs: CostModel | None = None, ratio: float = 1.0) -> Order:
    """Blocks of 32 tokens, by default with costs that double every 1,000 tokens."""
    model = costs or AnalyticCostModel(linear=1.0, attention=0.001)
    return make_order(name, Cache(ids, ids, block_costs(model, BLOCK, POSITIONS), ratio))
