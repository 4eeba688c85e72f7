"""Claims about what a server tells of itself."""

import dataclasses

from vllm_pensieve.serving.statistics import Statistics, mean_by_turn

KNOWN = Statistics(
    mode="pensieve",
    sessions=3,
    requests=12,
    prompt_tokens={"resident": 700, "swapped": 200, "recovered": 40, "new": 60},
    conversation_blocks={"resident": 21, "swapped": 6, "dropped": 2},
    gpu_blocks=1000,
    used_gpu_blocks=40,
    cpu_blocks=500,
    used_cpu_blocks=500,
    block_bytes=262_144,
    evictions={"host": 9, "dropped": 4},
    recoveries=5,
    ttft_by_turn_s=(0.5, 0.0204),
)


def test_hit_rates_are_shares_of_prompt_tokens():
    assert (KNOWN.gpu_hit_rate, KNOWN.cpu_hit_rate) == (0.7, 0.2)


def test_the_text_has_every_number():
    assert str(KNOWN).splitlines() == [
        "mode              pensieve",
        "requests          12 in 3 sessions",
        "prompt tokens     700 resident, 200 swapped, 40 recovered, 60 new",
        "GPU hit rate      70.0% of prompt tokens",
        "CPU hit rate      20.0% of prompt tokens",
        "blocks            21 resident, 6 swapped, 2 dropped (of these conversations)",
        "GPU cache         0.010 of 0.262 GB used (40 of 1,000 blocks)",
        "CPU cache         0.131 of 0.131 GB used (500 of 500 blocks)",
        "evictions         9 blocks to host memory, 4 dropped",
        "recoveries        5 requests, 40 tokens",
        "TTFT by turn      1: 500 ms, 2: 20 ms",
        "Speedup by turn   2: 24.51x (TTFT of turn 1 / that of the turn)",
    ]


def test_of_a_stateless_server_nothing_is_said_of_caches():
    stateless = dataclasses.replace(KNOWN, mode="vllm", evictions=None, stateless=True)
    assert str(stateless).splitlines() == [
        "mode              vllm",
        "requests          12 in 3 sessions",
        "prompt tokens     700 resident, 200 swapped, 40 recovered, 60 new",
        "Cache statistics: N/A (stateless)",
        "TTFT by turn      1: 500 ms, 2: 20 ms",
        "Speedup by turn   2: 24.51x (TTFT of turn 1 / that of the turn)",
    ]


def test_a_server_that_did_nothing_has_hit_rates_of_zero():
    nothing = dict.fromkeys(KNOWN.prompt_tokens, 0)
    idle = dataclasses.replace(
        KNOWN, mode="vllm-apc", prompt_tokens=nothing, evictions=None, ttft_by_turn_s=()
    )
    assert (idle.gpu_hit_rate, idle.cpu_hit_rate) == (0.0, 0.0)
    assert "evictions" not in str(idle)
    assert "\nTTFT by turn      -\nSpeedup by turn   - (" in str(idle)


def test_times_are_averaged_by_turn():
    assert mean_by_turn([(1, 0.25), (2, 3.0), (1, 0.75)]) == (0.5, 3.0)
    assert mean_by_turn([]) == ()


def test_a_turn_whose_answers_were_all_stopped_first_has_no_time():
    assert mean_by_turn([(2, 0.5)]) == (None, 0.5)
    stopped = dataclasses.replace(KNOWN, ttft_by_turn_s=(None, 0.5))
    assert "\nTTFT by turn      1: -, 2: 500 ms\nSpeedup by turn   2: - (" in str(stopped)
