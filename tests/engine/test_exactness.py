"""The small version of scripts/exactness.py: 60 requests of 12 conversations."""

import pytest

pytestmark = pytest.mark.engine


def test_conversations_under_heavy_eviction_are_answered_as_by_stock_vllm(tiny_model, keep_alive):
    from vllm_pensieve.testing.exactness import run

    report = run(tiny_model, sessions=12, turns=5, capacity_share=0.15, keep=keep_alive)
    assert report.requests == 60
    assert report.failures(recovered_above=0.15) == []


def test_conversations_that_outlive_gpu_memory_are_answered_as_by_stock_vllm(
    tiny_model, keep_alive
):
    from vllm_pensieve.testing.exactness import run

    report = run(
        tiny_model, sessions=16, turns=6, capacity_share=0.2, host_share=0.3, keep=keep_alive
    )
    assert report.requests == 96
    assert report.failures(recovered_above=0.0) == []
