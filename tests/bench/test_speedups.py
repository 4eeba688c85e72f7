"""Speed-ups: over the same requests in both modes, with their spread, on inputs small enough to compute by hand."""

import dataclasses

import pytest

from vllm_pensieve.bench.exchanges import Exchange
from vllm_pensieve.bench.speedups import speedups


def served(ttft_s: dict[tuple[str, int], float], seconds: float = 10.0) -> list[Exchange]:
    """One request a second of the session's turns; all of them end `seconds` after the first was sent."""
    return [
        Exchange(
            session,
            turn,
            start_s=float(turn),
            ttft_s=ttft,
            e2e_s=seconds - turn + 1,
            output_tokens=1,
        )
        for (session, turn), ttft in ttft_s.items()
    ]


def failed(session: str, turn: int) -> Exchange:
    return Exchange(session, turn, 0.0, error="gone")


SLOW = {("a", 1): 4.0, ("a", 2): 2.0, ("b", 1): 2.0, ("b", 2): 4.0}
FAST = {("a", 1): 1.0, ("a", 2): 1.0, ("b", 1): 2.0, ("b", 2): 2.0}


def test_speedups_are_over_the_stock_modes_and_over_the_plugin_without_its_host_tier():
    modes = {name: [served(SLOW)] for name in ("pensieve", "vllm-apc", "vllm", "pensieve-no-swap")}
    assert set(speedups(modes)) == {
        "vllm-apc/vllm",
        "pensieve/vllm",
        "pensieve-no-swap/vllm",
        "pensieve/vllm-apc",
        "pensieve-no-swap/vllm-apc",
        "pensieve/pensieve-no-swap",
    }
    assert speedups({"pensieve": [served(SLOW)]}) == {}


def test_a_speedup_is_the_ratio_of_means_with_how_many_requests_it_is_over():
    modes = {"vllm": [served(SLOW, 20.0)], "pensieve": [served(FAST, 10.0)]}
    figures = speedups(modes)["pensieve/vllm"]
    assert (figures["requests"], figures["sessions"], figures["left_out"]) == (4, 2, 0)
    assert figures["throughput"] == pytest.approx(2.0)
    assert figures["ttft_mean"] == pytest.approx(2.0)
    assert figures["ttft_mean_returning"] == pytest.approx(2.0)
    assert figures["ttft_mean_turn5plus"] is None
    assert figures["ttft_by_turn"] == [pytest.approx(2.0), pytest.approx(2.0)]
    assert figures["requests_by_turn"] == [2, 2]


def test_the_interval_spans_the_conversations_that_could_have_been_drawn():
    """Of two conversations, one 3 times and one 1.5 times faster, resampling draws one alone half of the time."""
    figures = speedups({"vllm": [served(SLOW)], "pensieve": [served(FAST)]})["pensieve/vllm"]
    assert figures["ttft_mean_95"] == [pytest.approx(1.5), pytest.approx(3.0)]
    alike = {(str(i), turn): 1.0 for i in range(8) for turn in (1, 2)}
    twice = dict.fromkeys(alike, 2.0)
    figures = speedups({"vllm": [served(twice)], "pensieve": [served(alike)]})["pensieve/vllm"]
    assert figures["ttft_mean_95"] == [pytest.approx(2.0), pytest.approx(2.0)]
    one = {key: value for key, value in SLOW.items() if key[0] == "a"}
    assert speedups({"vllm": [served(one)], "pensieve": [served(one)]})["pensieve/vllm"][
        "ttft_mean_95"
    ] is None  # fmt: skip


def test_only_what_both_modes_answered_is_compared_and_throughput_not_at_all():
    """The mode that broke off lost the slow half; over all of what each answered it would be 3 times faster."""
    broken_off = [*served({("a", 1): 1.0, ("b", 1): 1.0}), failed("a", 2), failed("b", 2)]
    slow = {("a", 1): 1.0, ("b", 1): 1.0, ("a", 2): 5.0, ("b", 2): 5.0}
    figures = speedups({"vllm": [served(slow)], "pensieve": [broken_off]})["pensieve/vllm"]
    assert (figures["requests"], figures["left_out"]) == (2, 2)
    assert figures["ttft_mean"] == pytest.approx(1.0)
    assert figures["throughput"] is None
    assert figures["ttft_mean_returning"] is None
    assert figures["ttft_by_turn"] == [pytest.approx(1.0)]


def test_a_mode_that_was_interrupted_is_compared_over_what_it_came_to():
    half = served({("a", 1): 2.0})
    figures = speedups({"vllm": [served(SLOW)], "pensieve": [half]})["pensieve/vllm"]
    assert (figures["requests"], figures["left_out"]) == (1, 3)
    assert figures["ttft_mean"] == pytest.approx(2.0)
    assert figures["throughput"] is None


def test_without_a_common_answer_there_is_no_figure():
    modes = {"vllm": [[failed("a", 1)]], "pensieve": [served({("a", 1): 1.0})]}
    figures = speedups(modes, {"a": "HOT"})["pensieve/vllm"]
    assert figures["requests"] == 0
    assert {figures[key] for key in ("throughput", "ttft_mean", "ttft_mean_95")} == {None}
    assert figures["ttft_by_turn"] == []
    assert figures["by_class"]["HOT"]["ttft_mean"] is None


def test_each_class_of_users_has_its_own():
    modes = {"vllm": [served(SLOW)], "pensieve": [served(FAST)]}
    by_class = speedups(modes, {"a": "HOT", "b": "COLD"})["pensieve/vllm"]["by_class"]
    assert by_class["HOT"]["ttft_mean"] == pytest.approx(3.0)
    assert by_class["HOT"]["ttft_by_turn"] == [pytest.approx(4.0), pytest.approx(2.0)]
    assert by_class["COLD"]["ttft_mean"] == pytest.approx(1.5)
    assert by_class["COLD"]["requests"] == 2


def test_of_several_repeats_the_median_counts():
    slower = [dataclasses.replace(r, ttft_s=10 * (r.ttft_s or 0)) for r in served(FAST)]
    modes = {
        "vllm": [served(SLOW, seconds) for seconds in (20.0, 30.0, 40.0)],
        "pensieve": [served(FAST), slower, served(FAST)],
    }
    figures = speedups(modes)["pensieve/vllm"]
    assert figures["requests"] == 12
    assert figures["ttft_mean"] == pytest.approx(2.0)
    assert figures["throughput"] == pytest.approx(3.0)
    assert figures["throughput_range"] == [pytest.approx(2.0), pytest.approx(4.0)]
