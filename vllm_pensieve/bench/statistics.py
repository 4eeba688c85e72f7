"""Pure functions from request records to the numbers of one mode in a summary."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from vllm_pensieve.bench.exchanges import Exchange

BASELINES = ("vllm", "vllm-apc", "vllm-offload", "pensieve-no-swap")
"""What other modes are compared with, where it was measured too."""
SUBJECT = "pensieve"
STOCK = ("vllm", "vllm-apc")
"""What benchmarks are about, and what they compare it with first."""
LATE_TURN = 5
"""From this turn on a conversation counts as long (`mean_turn5plus`)."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile by linear interpolation between closest ranks.

    Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no values to take a percentile of")
    return float(np.percentile(values, percent))


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, or None for no values."""
    return float(np.mean(values)) if values else None


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean, p50, p90 and p99; each None for no values."""
    percents = {"p50": 50, "p90": 90, "p99": 99}
    return {"mean": mean(values)} | {
        name: percentile(values, p) if values else None for name, p in percents.items()
    }


def mode_statistics(
    records: Iterable[Exchange],
    prompt_tokens: dict[str, int],
    classes: Mapping[str, str] | None = None,
    asked: int | None = None,
) -> dict[str, Any]:
    """Return the numbers of one mode: requests, throughput, times in seconds, and prompt tokens by
    source with their shares of all.

    `asked` is how many requests there should be (None: as many as there are records); `missing` are those of
    them without an answer. Duration is from the first request sent to the last reply's end; think times are in
    it. `classes` maps sessions to classes of users; with it, `by_class` has the same numbers of each class, with
    its prompt tokens only as far as responses say: all, and those taken from a cache in either memory.
    """
    records = list(records)
    total = prompt_tokens.get("total")
    own = _request_statistics(records)
    answered = own["requests"] - own["failed"]
    numbers = own | {
        "missing": (len(records) if asked is None else asked) - answered,
        "first_turns_at_start": first_turns_at_start(records),
        "reasoning_only": sum(record.reasoning_only for record in records),
        "unmatched_tokens": _unmatched_tokens(records),
        "prompt_tokens": prompt_tokens,
        "prompt_shares": {
            source: tokens / total
            for source, tokens in prompt_tokens.items()
            if total and source != "total"
        },
    }
    if classes:
        numbers["by_class"] = {
            name: _class_statistics(
                [record for record in records if classes.get(record.session) == name]
            )
            for name in dict.fromkeys(classes.values())
        }
    return numbers


def _class_statistics(records: Sequence[Exchange]) -> dict[str, Any]:
    done = [record for record in records if record.error is None]
    total = sum(record.prompt_tokens for record in done)
    cached = sum(record.cached_tokens for record in done)
    return _request_statistics(records) | {
        "prompt_tokens": {"total": total, "cached": cached},
        "cached_share": cached / total if total else None,
    }


def is_answered(record: Exchange) -> bool:
    """Whether a reply came back, whole and as asked."""
    return record.e2e_s is not None and record.ttft_s is not None


def duration_s(records: Sequence[Exchange]) -> float:
    """Return the seconds from the first of these answered requests sent to the end of the last reply; 0 for none."""
    ends = [record.start_s + record.e2e_s for record in records if record.e2e_s is not None]
    return max(ends) - min(record.start_s for record in records) if ends else 0.0


def throughput_rps(records: Sequence[Exchange]) -> float:
    """Return the answered requests a second; 0 for none."""
    seconds = duration_s(records)
    return len(records) / seconds if seconds else 0.0


def first_turns_at_start(records: Sequence[Exchange]) -> int:
    """Return how many first turns were sent before any reply began: they wait for each other, not for a cache."""
    begun = [record.start_s + record.ttft_s for record in records if record.ttft_s is not None]
    return (
        sum(record.turn == 1 and record.start_s < min(begun) for record in records) if begun else 0
    )


def _unmatched_tokens(records: Sequence[Exchange]) -> dict[str, Any]:
    """Tokens that prompts did not repeat of the turn before; see Exchange."""
    turns = max((record.turn for record in records), default=0)
    return {
        "total": sum(record.unmatched_tokens for record in records),
        "requests": sum(record.unmatched_tokens > 0 for record in records),
        "by_turn": [
            sum(record.unmatched_tokens for record in records if record.turn == number)
            for number in range(1, turns + 1)
        ],
    }


def _request_statistics(records: Sequence[Exchange]) -> dict[str, Any]:
    done = [record for record in records if is_answered(record)]
    seconds = duration_s(done)
    output_tokens = sum(record.output_tokens for record in done)
    ttft = [(record.turn, record.ttft_s) for record in done if record.ttft_s is not None]
    turns = max((turn for turn, _ in ttft), default=0)
    by_turn = [[value for turn, value in ttft if turn == number] for number in range(1, turns + 1)]
    return {
        "requests": len(records),
        "failed": len(records) - len(done),
        "duration_s": seconds,
        "throughput_rps": throughput_rps(done),
        "output_tok_s": output_tokens / seconds if seconds else 0.0,
        "ttft_s": spread([value for _, value in ttft])
        | {
            "by_turn": [mean(values) for values in by_turn],
            "by_turn_p10": [percentile(values, 10) if values else None for values in by_turn],
            "by_turn_p90": [percentile(values, 90) if values else None for values in by_turn],
            "requests_by_turn": [len(values) for values in by_turn],
            "mean_returning": mean([value for turn, value in ttft if turn > 1]),
            "mean_turn5plus": mean([value for turn, value in ttft if turn >= LATE_TURN]),
        },
        "e2e_s": spread([record.e2e_s for record in done if record.e2e_s is not None]),
        "tpot_s": spread([record.tpot_s for record in done if record.tpot_s is not None]),
        "output_tokens": output_tokens,
        "batch": batch_sizes(done),
    }


def batch_sizes(records: Sequence[Exchange]) -> dict[str, float | None]:
    """Return how many requests were being answered at the same time: the mean while any was, and the most."""
    changes = sorted(
        change
        for record in records
        if record.e2e_s is not None
        for change in ((record.start_s, 1), (record.start_s + record.e2e_s, -1))
    )
    busy_s = request_s = 0.0
    most = running = 0
    for (time_s, change), (next_s, _) in pairwise([*changes, (math.inf, 0)]):
        running += change
        most = max(most, running)
        if running and next_s < math.inf:
            busy_s += next_s - time_s
            request_s += running * (next_s - time_s)
    return {"mean": request_s / busy_s if busy_s else None, "most": most}


def median_of(repeats: Sequence[Any]) -> Any:
    """Return the median of numbers, or the same structure of medians for dictionaries and lists of
    one shape.

    None among the numbers is left out; whole numbers stay whole when the median is one of them.
    """
    if len(repeats) == 1:
        return repeats[0]
    first = next((value for value in repeats if value is not None), None)
    if isinstance(first, dict):
        return {
            key: median_of([value.get(key) for value in repeats if value is not None])
            for key in first
        }
    if isinstance(first, list):
        longest = max(len(value) for value in repeats if value is not None)
        return [
            median_of([value[i] for value in repeats if value is not None and i < len(value)])
            for i in range(longest)
        ]
    if isinstance(first, (int, float)):
        result = statistics.median(value for value in repeats if value is not None)
        return int(result) if isinstance(first, int) and float(result).is_integer() else result
    return first


def outputs_differing(outputs: dict[str, dict[tuple[str, int], str]]) -> dict[str, int]:
    """Return, for every mode against the first, how many requests both answered with different
    texts (`mode/first`).

    Each mode maps (session, turn) to a digest of the text.
    """
    first, *others = list(outputs) or [""]
    return {
        f"{name}/{first}": sum(
            outputs[first][key] != outputs[name][key]
            for key in outputs[first].keys() & outputs[name]
        )
        for name in others
    }
