"""From the scheduler's counts to a log line."""

from vllm_pensieve.metrics import LogReporter, PensieveStats


def snapshot(stats, evicted=0):
    return {
        "prompt_tokens": dict(stats.prompt_tokens),
        "evictions": {"dropped": evicted},
        "blocks": {"resident": 90, "free": 9},
        "sessions": 3,
    }


def test_the_sources_of_a_prompt_add_up_to_it():
    stats = PensieveStats()
    stats.count_prompt(total=100, resident=64, recovered=32)
    assert stats.prompt_tokens == {"resident": 64, "swapped": 0, "recovered": 32, "new": 4}


def test_the_log_line_covers_what_came_since_the_last_one():
    stats, reporter = PensieveStats(), LogReporter()
    assert reporter.line() is None
    stats.count_prompt(total=100, resident=100, recovered=0)
    reporter.observe(snapshot(stats, evicted=5))
    assert reporter.line() == (
        "Pensieve: 100 prompt tokens (resident 100.0%, swapped 0.0%, recovered 0.0%, new 0.0%), "
        "5 blocks evicted, 90 resident and 9 free, 3 sessions"
    )
    assert reporter.line() is None
    stats.count_prompt(total=200, resident=0, recovered=50)
    reporter.observe(snapshot(stats, evicted=7))
    assert (
        "200 prompt tokens (resident 0.0%, swapped 0.0%, recovered 25.0%, new 75.0%), 2 blocks"
        in reporter.line()
    )
