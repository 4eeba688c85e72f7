"""Every command of the prefix-sharing study, in its order: each needs what those before it wrote into /tmp."""

from __future__ import annotations

from vllm_pensieve.testing.originals.lines import Line

FILE = "prefix-sharing-study.md"

STUDY_LINES = (
    Line(
        f"{FILE}:108",
        r"""VLLM_PLATFORM=cpu VLLM_ATTENTION_BACKEND=TORCH_SDPA \
python -m pytest tests/test_m1_engine_with_simulator.py -s""",
    ),
    Line(
        f"{FILE}:129",
        r"""VLLM_PLATFORM=cpu VLLM_ATTENTION_BACKEND=TORCH_SDPA \
python scripts/demo_prefix_metrics_hello.py""",
    ),
    Line(
        f"{FILE}:158",
        r"""VLLM_PLATFORM=cpu VLLM_ATTENTION_BACKEND=TORCH_SDPA \
python scripts/demo_sharegpt_client.py""",
    ),
    Line(
        f"{FILE}:183",
        r"""VLLM_PLATFORM=cpu VLLM_ATTENTION_BACKEND=TORCH_SDPA \
PREFIX_MODE=single \
python scripts/run_sharegpt_prefix_single.py""",
    ),
    Line(
        f"{FILE}:191",
        r"""VLLM_PLATFORM=cpu VLLM_ATTENTION_BACKEND=TORCH_SDPA \
PREFIX_MODE=multi \
python scripts/run_sharegpt_prefix_multi.py""",
    ),
    Line(
        f"{FILE}:208",
        "python tools/summarize_prefix_stats.py /tmp/prefix_metrics_sharegpt_single",
    ),
    Line(
        f"{FILE}:209",
        "python tools/summarize_prefix_stats.py /tmp/prefix_metrics_sharegpt_multi",
    ),
    Line(
        f"{FILE}:221",
        "python tools/analyze_prefix_stats.py /tmp/prefix_metrics_sharegpt_single",
    ),
    Line(
        f"{FILE}:222",
        "python tools/analyze_prefix_stats.py /tmp/prefix_metrics_sharegpt_multi",
    ),
    Line(
        f"{FILE}:244",
        "python tools/simulate_cache_policies.py /tmp/prefix_metrics_sharegpt_single 16 LRU",
    ),
    Line(
        f"{FILE}:245",
        "python tools/simulate_cache_policies.py /tmp/prefix_metrics_sharegpt_single 16 FIFO",
    ),
    Line(
        f"{FILE}:248",
        "python tools/simulate_cache_policies.py /tmp/prefix_metrics_sharegpt_multi 16 LRU",
    ),
    Line(
        f"{FILE}:249",
        "python tools/simulate_cache_policies.py /tmp/prefix_metrics_sharegpt_multi 16 FIFO",
    ),
    Line(  # "We repeat for block sizes 32 and 64 by changing the second argument."
        f"{FILE}:252",
        "python tools/simulate_cache_policies.py /tmp/prefix_metrics_sharegpt_multi 32 LRU",
    ),
    Line(
        f"{FILE}:252",
        "python tools/simulate_cache_policies.py /tmp/prefix_metrics_sharegpt_multi 64 FIFO",
    ),
    Line(
        f"{FILE}:277",
        r"""VLLM_PLATFORM=cpu VLLM_ATTENTION_BACKEND=TORCH_SDPA \
python scripts/run_all_workloads_prefix.py""",
    ),
    Line(f"{FILE}:294", "python tools/analyze_all_prefix_cache.py /tmp"),
    Line(f"{FILE}:328", "python tools/simulate_mixed_workloads.py /tmp"),
)

CHATS = ("single", "multi")
WORKLOADS = ("chat_multi", "chat_single", "qa", "summarization")
SIZES = (16, 32, 64)
DISTRIBUTIONS = ("reuse_fraction_cdf", "block_hits_cdf", "block_reuse_gaps_cdf")

STUDY_FILES = {
    *(f"prefix_metrics_toy_{kind}.jsonl" for kind in ("requests", "blocks")),
    *(
        f"prefix_metrics_sharegpt_{chat}_{kind}.jsonl"
        for chat in CHATS
        for kind in ("requests", "blocks")
    ),
    *(f"{name}_{label}.png" for name in DISTRIBUTIONS for label in (*CHATS, *WORKLOADS)),
    *(
        f"prefix_{workload}_b{size}_{kind}.jsonl"
        for workload in WORKLOADS
        for size in SIZES
        for kind in ("requests", "blocks")
    ),
    *(
        f"cache_hits_{workload}_{policy}.png"
        for workload in WORKLOADS
        for policy in ("LRU", "FIFO")
    ),
}
"""What the study says that its lines write into /tmp."""
