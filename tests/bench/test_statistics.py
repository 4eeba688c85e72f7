"""The numbers of a summary, on inputs small enough to compute by hand."""

import dataclasses

import pytest

from vllm_pensieve.bench.counters import (
    Counters,
    cache_numbers,
    parse_counters,
    prompt_tokens_by_source,
)
from vllm_pensieve.bench.exchanges import Exchange
from vllm_pensieve.bench.statistics import (
    batch_sizes,
    first_turns_at_start,
    median_of,
    mode_statistics,
    outputs_differing,
    percentile,
    spread,
)

METRICS = """\
# TYPE vllm:pensieve_prompt_tokens_total counter
vllm:pensieve_prompt_tokens_total{engine="0",model_name="demo",source="resident"} 100.0
vllm:pensieve_prompt_tokens_total{engine="0",model_name="demo",source="recovered"} 1.2e+01
vllm:pensieve_prompt_tokens_total{engine="0",model_name="demo",source="swapped"} 0.0
vllm:pensieve_prompt_tokens_total{engine="0",model_name="demo",source="new"} 8.0
vllm:pensieve_prompt_tokens_created{engine="0",model_name="demo",source="new"} 1.7e+09
vllm:prompt_tokens_total{engine="0"} 120.0
"""


def record(turn: int, start_s: float, ttft_s: float, e2e_s: float, **fields) -> Exchange:
    fields = {"prompt_tokens": 10, "cached_tokens": 4, "output_tokens": 5} | fields
    return Exchange("s", turn, start_s, ttft_s=ttft_s, e2e_s=e2e_s, **fields)


RECORDS = [record(1, 1.0, 2.0, 6.0), record(5, 8.0, 1.0, 3.0), record(6, 12.0, 3.0, 4.0)]
FAILED = Exchange("s", 7, 30.0, error="gone")


def test_percentiles_interpolate_between_ranks():
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], 90) == pytest.approx(4.6)
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_no_values_have_no_spread():
    assert spread([]) == {"mean": None, "p50": None, "p90": None, "p99": None}


def test_times_and_rates_of_a_mode():
    numbers = mode_statistics([*RECORDS, FAILED], {"total": 30})
    assert (numbers["requests"], numbers["failed"]) == (4, 1)
    assert numbers["duration_s"] == 15.0
    assert numbers["throughput_rps"] == pytest.approx(0.2)
    assert numbers["output_tok_s"] == 1.0
    assert numbers["ttft_s"]["mean"] == 2.0
    assert numbers["ttft_s"]["by_turn"] == [2.0, None, None, None, 1.0, 3.0]
    assert numbers["ttft_s"]["requests_by_turn"] == [1, 0, 0, 0, 1, 1]
    assert numbers["ttft_s"]["mean_turn5plus"] == 2.0
    assert numbers["ttft_s"]["mean_returning"] == 2.0
    assert numbers["tpot_s"]["p50"] == 0.5


def test_turns_without_an_answer_are_missing_whether_they_failed_or_were_never_sent():
    assert mode_statistics([*RECORDS, FAILED], {}, asked=10)["missing"] == 7
    assert mode_statistics([*RECORDS, FAILED], {})["missing"] == 1
    assert mode_statistics(RECORDS, {})["missing"] == 0


def test_tokens_that_were_not_repeated_and_thoughts_without_an_answer_are_counted():
    records = [RECORDS[0], record(5, 8.0, 1.0, 3.0, unmatched_tokens=7, reasoning_only=True)]
    records.append(record(6, 12.0, 3.0, 4.0, unmatched_tokens=2))
    numbers = mode_statistics(records, {})
    assert numbers["reasoning_only"] == 1
    assert numbers["unmatched_tokens"] == {"total": 9, "requests": 2, "by_turn": [0, 0, 0, 0, 7, 2]}


def test_first_turns_sent_before_any_reply_began_are_a_burst():
    sent = [(0.0, 2.0), (1.0, 5.0), (1.9, 0.2), (3.0, 1.0)]
    burst = [of(str(i), record(1, start, ttft, 9.0)) for i, (start, ttft) in enumerate(sent)]
    assert first_turns_at_start(burst) == 3
    assert first_turns_at_start([*burst, record(2, 0.5, 0.1, 9.0)]) == 1
    assert first_turns_at_start([FAILED]) == 0


def test_each_turn_has_its_spread_and_how_many_requests_it_is_over():
    records = [of(str(i), record(2, 0.0, float(i), 9.0)) for i in range(11)]
    ttft = mode_statistics(records, {})["ttft_s"]
    assert ttft["requests_by_turn"] == [0, 11]
    assert (ttft["by_turn_p10"], ttft["by_turn_p90"]) == ([None, 1.0], [None, 9.0])


def of(session: str, record: Exchange) -> Exchange:
    return dataclasses.replace(record, session=session)


def test_each_class_of_users_has_its_own_times_and_rates():
    records = [of("a", RECORDS[0]), of("b", RECORDS[1]), of("b", RECORDS[2]), of("c", FAILED)]
    classes = {"a": "HOT", "b": "WARM", "c": "COLD"}
    numbers = mode_statistics(records, {"total": 30, "resident": 12, "new": 18}, classes)
    assert list(numbers["by_class"]) == ["HOT", "WARM", "COLD"]
    warm = numbers["by_class"]["WARM"]
    assert (warm["requests"], warm["failed"], warm["output_tokens"]) == (2, 0, 10)
    assert warm["duration_s"] == 8.0
    assert warm["throughput_rps"] == 0.25
    assert warm["ttft_s"]["mean"] == 2.0
    assert warm["e2e_s"]["p99"] == pytest.approx(3.99)
    assert warm["prompt_tokens"] == {"total": 20, "cached": 8}
    assert warm["cached_share"] == 0.4
    assert numbers["by_class"]["HOT"]["ttft_s"]["mean"] == 2.0
    cold = numbers["by_class"]["COLD"]
    assert (cold["failed"], cold["ttft_s"]["mean"], cold["cached_share"]) == (1, None, None)
    assert "by_class" not in mode_statistics(records, {})


def test_prompt_tokens_have_shares_of_all_of_them():
    sources = {"total": 40, "resident": 20, "swapped": 10, "recovered": 0, "new": 10}
    shares = {"resident": 0.5, "swapped": 0.25, "recovered": 0.0, "new": 0.25}
    assert mode_statistics(RECORDS, sources)["prompt_shares"] == shares
    assert mode_statistics([FAILED], {"total": 0, "new": 0})["prompt_shares"] == {}


def test_a_mode_in_which_everything_failed_has_no_times():
    numbers = mode_statistics([FAILED], {"total": 0})
    assert (numbers["requests"], numbers["failed"], numbers["throughput_rps"]) == (1, 1, 0.0)
    assert numbers["ttft_s"]["mean"] is None
    assert numbers["ttft_s"]["by_turn"] == []


def test_repeats_are_summarised_by_the_median_of_every_number():
    repeats = [
        {"n": 3, "t": {"mean": 1.0, "by_turn": [1.0, None]}},
        {"n": 3, "t": {"mean": 9.0, "by_turn": [5.0, 2.0]}},
        {"n": 3, "t": {"mean": 2.0, "by_turn": [2.0]}},
    ]
    assert median_of(repeats) == {"n": 3, "t": {"mean": 2.0, "by_turn": [2.0, 2.0]}}
    assert median_of([None, None]) is None


def test_differing_outputs_are_counted_against_the_first_mode():
    first = {("a", 1): "x", ("a", 2): "y", ("b", 1): "z"}
    second = {("a", 1): "x", ("a", 2): "other"}
    assert outputs_differing({"vllm": first, "pensieve": second}) == {"pensieve/vllm": 1}
    assert outputs_differing({"vllm": first}) == {}
    assert outputs_differing({}) == {}


def test_the_plugins_counters_are_read_from_the_metrics():
    counted = {"resident": 100, "swapped": 0, "recovered": 12, "new": 8}
    assert parse_counters(METRICS).prompt_tokens == counted
    assert parse_counters("vllm:prompt_tokens_total 3.0\n") is None


def test_prompt_tokens_come_from_the_counters_growth():
    before = Counters({"resident": 90, "swapped": 0, "recovered": 2, "new": 8}, {}, None, {})
    by_source = prompt_tokens_by_source(RECORDS, before, parse_counters(METRICS))
    assert by_source == {"total": 20, "resident": 10, "swapped": 0, "recovered": 10, "new": 0}


def test_where_the_counters_went_with_the_server_no_source_is_made_up():
    before = Counters({"resident": 90, "swapped": 0, "recovered": 2, "new": 8}, {}, None, {})
    assert prompt_tokens_by_source(RECORDS, before, None) == {"total": 30}
    assert mode_statistics(RECORDS, {"total": 30})["prompt_shares"] == {}


PLUGIN_METRICS = """
vllm:pensieve_prompt_tokens_total{engine="0",source="new"} 5.0
vllm:pensieve_evictions_total{engine="0",to="host"} 7.0
vllm:pensieve_evictions_total{engine="1",to="host"} 1.0
vllm:pensieve_evictions_total{engine="0",to="dropped"} 2.0
vllm:pensieve_evictions_created{engine="0",to="dropped"} 1.7e9
vllm:pensieve_recoveries_total{engine="0"} 4.0
vllm:pensieve_blocks{engine="0",state="resident"} 20.0
vllm:pensieve_blocks{engine="0",state="swapped"} 10.0
"""


def test_what_the_cache_did_is_the_growth_of_the_counters_and_how_full_it_is_is_not():
    after = parse_counters(PLUGIN_METRICS)
    before = Counters({"new": 1}, {"host": 3, "dropped": 0}, 1, {"resident": 99})
    assert cache_numbers(before, after, 0.5) == {
        "evictions": {"host": 5, "dropped": 2},
        "recoveries": 3,
        "gpu_blocks": 20,
        "cpu_blocks": 10,
        "gpu_gb": 10.0,
        "cpu_gb": 5.0,
    }
    assert cache_numbers(before, after, None)["gpu_gb"] is None
    assert cache_numbers(None, None, 0.5) == {}


def test_a_batch_is_who_is_answered_at_the_same_time():
    times = [
        (0.0, 4.0),
        (1.0, 2.0),
        (10.0, 2.0),
    ]  # 1 s alone, 2 s both, 1 s alone, nobody, 2 s alone
    records = [Exchange("s", 1, start, ttft_s=0.1, e2e_s=length) for start, length in times]
    assert batch_sizes(records) == {"mean": pytest.approx(8 / 6), "most": 2}
    assert batch_sizes([]) == {"mean": None, "most": 0}


def test_without_counters_cached_tokens_are_resident():
    by_source = prompt_tokens_by_source([*RECORDS, FAILED], None, None)
    assert by_source == {"total": 30, "resident": 12, "swapped": 0, "recovered": 0, "new": 18}
