"""The cost model against sums done by hand."""

import pytest

from vllm_pensieve.retention import AnalyticCostModel, ModelShape

LLAMA_3_8B = ModelShape(
    layers=32,
    hidden_size=4096,
    query_heads=32,
    kv_heads=8,
    head_dim=128,
    feed_forward_size=14336,
    gated_feed_forward=True,
)


def test_linear_flops_are_twice_the_weights_a_token_passes_through():
    embeddings = 2 * 128256 * 4096
    norms = 65 * 4096
    weights = 8_030_261_248 - embeddings - norms
    assert AnalyticCostModel.from_shape(LLAMA_3_8B).linear == 2 * weights


def test_attention_flops_are_four_for_each_query_element_and_layer():
    assert AnalyticCostModel.from_shape(LLAMA_3_8B).attention == 4 * 32 * 4096


def test_a_span_costs_the_sum_of_its_tokens():
    model = AnalyticCostModel(linear=7.0, attention=0.5)
    assert model.span(10, 14) == sum(7.0 + 0.5 * depth for depth in range(10, 14))
    assert model.span(5, 5) == 0


def test_a_cost_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="linear=0"):
        AnalyticCostModel(linear=0, attention=1)
