"""From the scheduler's counts to a log line and to Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from vllm_pensieve.metrics import TOTALS, LogReporter, PensieveStats, PrometheusReporter

BLOCKS = {"resident": 90, "swapped": 30, "free": 9}


def test_the_sources_of_a_prompt_add_up_to_it():
    stats = PensieveStats()
    stats.count_prompt(total=100, resident=32, swapped=24, recovered=40)
    assert stats.prompt_tokens == {"resident": 32, "swapped": 24, "recovered": 40, "new": 4}


def test_a_report_holds_what_came_since_the_one_before():
    stats = PensieveStats()
    stats.count_prompt(total=100, resident=64, swapped=0, recovered=0)
    stats.evictions["dropped"] = 3
    first = stats.report(engine=0, blocks=BLOCKS, host_blocks=40, sessions=1, now_s=0.0)
    stats.count_prompt(total=10, resident=0, swapped=0, recovered=0)
    second = stats.report(engine=0, blocks=BLOCKS, host_blocks=40, sessions=2, now_s=0.0)
    assert first["prompt_tokens"] == {"resident": 64, "swapped": 0, "recovered": 0, "new": 36}
    assert second["prompt_tokens"] == {"resident": 0, "swapped": 0, "recovered": 0, "new": 10}
    assert (first["evictions"], second["evictions"]) == (
        {"host": 0, "dropped": 3},
        {"host": 0, "dropped": 0},
    )
    assert second["sessions"] == 2


def test_a_report_is_due_when_idle_or_a_prompt_was_counted_or_a_second_has_passed():
    stats = PensieveStats()
    assert stats.report_due(100.0, idle=False)
    stats.report(0, BLOCKS, 40, 1, now_s=100.0)
    assert not stats.report_due(100.5, idle=False)
    assert stats.report_due(100.5, idle=True), "there may be no other step for hours"
    assert stats.report_due(101.0, idle=False)
    stats.count_prompt(total=1, resident=0, swapped=0, recovered=0)
    assert stats.report_due(100.5, idle=False)


def test_the_log_line_covers_what_came_since_the_last_line_of_all_engines():
    stats, reporter = PensieveStats(), LogReporter()
    assert reporter.line() is None
    stats.count_prompt(total=100, resident=60, swapped=40, recovered=0)
    stats.evictions.update(host=7, dropped=5)
    stats.copied_bytes.update(store=2_500_000_000, load=1_230_000_000)
    reporter.observe(stats.report(0, BLOCKS, 40, 3, 0.0))
    assert reporter.line() == (
        "Pensieve: 100 prompt tokens (resident 60.0%, swapped 40.0%, recovered 0.0%, new 0.0%); "
        "blocks: 90 resident, 30 swapped, 9 free, 7 went to host memory, 5 dropped; "
        "copied 2.50 GB out, 1.23 GB in; 3 sessions"
    )
    assert reporter.line() is None
    other = PensieveStats()
    for engine, counting in enumerate((stats, other)):
        counting.count_prompt(total=200, resident=0, swapped=0, recovered=50)
        reporter.observe(counting.report(engine, BLOCKS, 40, 3, 0.0))
    assert reporter.line() == (
        "Pensieve: 400 prompt tokens (resident 0.0%, swapped 0.0%, recovered 25.0%, new 75.0%); "
        "blocks: 180 resident, 60 swapped, 18 free, 0 went to host memory, 0 dropped; "
        "copied 0.00 GB out, 0.00 GB in; 6 sessions"
    )


def test_prometheus_adds_the_reports_of_each_engine():
    registry = CollectorRegistry()

    def registered(kind):
        return lambda **kwargs: kind(registry=registry, **kwargs)

    reporter = PrometheusReporter(
        registered(Counter), registered(Gauge), ["engine"], {0: ["0"], 1: ["1"]}
    )
    stats = PensieveStats()
    for resident in (10, 20):
        stats.count_prompt(total=30, resident=resident, swapped=0, recovered=0)
        stats.copied_bytes["load"] += 4096
        stats.failed_loads += 3
        stats.load_wait_seconds += 0.25
        reporter.observe(stats.report(1, BLOCKS, 40, 4, 0.0), engine_index=1)
    value = registry.get_sample_value
    tokens = "vllm:pensieve_prompt_tokens_total"
    assert value(tokens, {"engine": "1", "source": "resident"}) == 30
    assert value(tokens, {"engine": "1", "source": "new"}) == 30
    assert value("vllm:pensieve_copied_bytes_total", {"engine": "1", "direction": "load"}) == 8192
    assert value("vllm:pensieve_blocks", {"engine": "1", "state": "resident"}) == 90
    assert value("vllm:pensieve_blocks", {"engine": "1", "state": "swapped"}) == 30
    assert value("vllm:pensieve_sessions", {"engine": "1"}) == 4
    assert value("vllm:pensieve_host_capacity_blocks", {"engine": "1"}) == 40
    assert value("vllm:pensieve_failed_loads_total", {"engine": "1"}) == 6
    assert value("vllm:pensieve_load_wait_seconds_total", {"engine": "1"}) == 0.5
    for name in TOTALS:  # also what never happened, so that an alert on it finds a number
        assert value(f"vllm:pensieve_{name}_total", {"engine": "1"}) is not None
