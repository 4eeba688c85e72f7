"""What is said before the numbers of a comparison are believed: nothing without a reason, and every reason."""

from typing import Any

import pytest

from vllm_pensieve.bench.exchanges import Exchange
from vllm_pensieve.bench.remarks import remarks
from vllm_pensieve.bench.speedups import speedups
from vllm_pensieve.bench.statistics import mode_statistics

CACHED = {"total": 100, "resident": 60, "swapped": 0, "recovered": 10, "new": 30}
COMPUTED = {"total": 100, "resident": 0, "swapped": 0, "recovered": 0, "new": 100}


def served(**fields: Any) -> list[Exchange]:
    """Two turns each of two conversations, the second after the first."""
    return [
        Exchange(s, turn, 10.0 * turn + 4 * i, ttft_s=1.0, e2e_s=2.0, output_tokens=2, **fields)
        for i, s in enumerate("ab")
        for turn in (1, 2)
    ]


def summary(
    own: list[Exchange] | None = None,
    sources: dict[str, int] = CACHED,
    load: float = 1.0,
    **workload: Any,
) -> dict[str, Any]:
    records = {"vllm": served(), "pensieve": served() if own is None else own}
    return {
        "stepped_back": {},
        "workload": workload,
        "machine": {"load_average_1min": load, "cores": 2},
        "modes": {
            "vllm": mode_statistics(records["vllm"], COMPUTED, asked=4),
            "pensieve": mode_statistics(records["pensieve"], sources, asked=4),
        },
        "speedup": speedups({name: [own] for name, own in records.items()}),
    }


def test_a_sound_comparison_has_no_remark():
    assert remarks(summary()) == []
    assert remarks(summary(load=2.9)) == []
    assert remarks(summary([])) != []


def test_that_the_plugin_was_not_at_work_is_said_first():
    made = summary() | {"stepped_back": {"pensieve": "it has other cache groups"}}
    (said,) = remarks(made)
    assert said == (
        "pensieve: the plugin STEPPED BACK, what was measured is vLLM's own caching: it has other cache groups"
    )


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            summary([*served()[:3], Exchange("b", 2, 0.0, error="gone")]),
            [
                "pensieve: 1 of 4 turns without an answer; its figures are over the 3 that have one",
                "pensieve/vllm: compared over the 3 requests that both answered, without throughput "
                "(1 request missing in one of them)",
            ],
        ),
        (
            summary(dataset="x.json", records=200, records_skipped=3, first_skipped="record 4: is odd"),
            [
                "x.json: 3 of 200 records skipped (2%: the rest may not represent the whole); "
                "the first: record 4: is odd"
            ],
        ),
        (
            summary(load=14.0),
            [
                "load average 14.0 on 2 cores: other programs ran, too, which may have cost time; "
                "measure again when the machine is idle"
            ],
        ),
        (
            summary(served(unmatched_tokens=3)),
            [
                "pensieve: 4 prompts did not repeat 12 tokens of the turn before (a reply sent back can become "
                "other tokens, and a chat template can change it); no cache can find those; by turn: 6, 6"
            ],
        ),
        (
            summary(served(reasoning_only=True)),
            [
                "pensieve: 4 of 4 replies were thoughts without an answer; later turns contain of them what the chat "
                "template sends back"
            ],
        ),
        (
            summary(sources=COMPUTED),
            [
                "pensieve/vllm: both computed 100% of their prompt tokens; a difference in time between them does not "
                "come from what was found in the cache"
            ],
        ),
        (
            summary([Exchange(s, 1, 0.1 * i, ttft_s=1.0, e2e_s=2.0) for i, s in enumerate("ab")] + served()[2:][1:]
                    + [served()[1]]),
            [
                "2 conversations sent their first turn before any reply began: TTFT of turn 1, and of all turns, "
                "contains their waiting for each other; TTFT of returning turns does not"
            ],
        ),
    ],
)  # fmt: skip
def test_each_reason_for_doubt_is_said(made, said):
    assert remarks(made) == said
