"""Pure functions from request records to the numbers of a summary."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from vllm_pensieve.bench.records import RequestRecord

BASELINES = ("vllm", "vllm-apc", "vllm-offload", "pensieve-no-swap")
"""What other modes are compared with, where it was measured too."""
SUBJECT = "pensieve"
STOCK = ("vllm", "vllm-apc")
"""What benchmarks are about, and what they set it beside first."""
LATE_TURN = 5
"""From this turn on a conversation counts as long (`mean_turn5plus`)."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile by linear interpolation between closest ranks.

    Raises ValueError for no values.
    """
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, or None for no values."""
    return statistics.fmean(values) if values else None


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean, p50, p90 and p99; each None for no values."""
    percents = {"p50": 50, "p90": 90, "p99": 99}
    return {"mean": mean(values)} | {
        name: percentile(values, p) if values else None for name, p in percents.items()
    }


def mode_statistics(
    records: Iterable[RequestRecord],
    prompt_tokens: dict[str, int],
    classes: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the numbers of one mode: requests, throughput, times in seconds, and prompt tokens by
    source with their shares of all.

    Duration is from the first request sent to the last reply's end; think times are in it. `classes`
    maps sessions to classes of users; with it, `by_class` has the same numbers of each class, with its
    prompt tokens only as far as responses tell: all, and those taken from a cache in either memory.
    """
    records = list(records)
    total = prompt_tokens.get("total")
    numbers = _request_statistics(records) | {
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


def _class_statistics(records: Sequence[RequestRecord]) -> dict[str, Any]:
    done = [record for record in records if record.error is None]
    total = sum(record.prompt_tokens for record in done)
    cached = sum(record.cached_tokens for record in done)
    return _request_statistics(records) | {
        "prompt_tokens": {"total": total, "cached": cached},
        "cached_share": cached / total if total else None,
    }


def _request_statistics(records: Sequence[RequestRecord]) -> dict[str, Any]:
    done = [record for record in records if record.e2e_s is not None and record.ttft_s is not None]
    ends = [record.start_s + record.e2e_s for record in done if record.e2e_s is not None]
    duration_s = max(ends) - min(record.start_s for record in done) if done else 0.0
    output_tokens = sum(record.output_tokens for record in done)
    ttft = [(record.turn, record.ttft_s) for record in done if record.ttft_s is not None]
    turns = max((turn for turn, _ in ttft), default=0)
    return {
        "requests": len(records),
        "failed": len(records) - len(done),
        "duration_s": duration_s,
        "throughput_rps": len(done) / duration_s if duration_s else 0.0,
        "output_tok_s": output_tokens / duration_s if duration_s else 0.0,
        "ttft_s": spread([value for _, value in ttft])
        | {
            "by_turn": [
                mean([value for turn, value in ttft if turn == number])
                for number in range(1, turns + 1)
            ],
            "requests_by_turn": [
                sum(turn == number for turn, _ in ttft) for number in range(1, turns + 1)
            ],
            "mean_returning": mean([value for turn, value in ttft if turn > 1]),
            "mean_turn5plus": mean([value for turn, value in ttft if turn >= LATE_TURN]),
        },
        "e2e_s": spread([record.e2e_s for record in done if record.e2e_s is not None]),
        "tpot_s": spread([record.tpot_s for record in done if record.tpot_s is not None]),
        "output_tokens": output_tokens,
        "batch": batch_sizes(done),
    }


def batch_sizes(records: Sequence[RequestRecord]) -> dict[str, float | None]:
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


def speedups(modes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, for every mode over every baseline before it, how many times better it is (above 1: better).

    Names are `mode/baseline`.
    """
    names = list(modes)
    baselines = [name for name in BASELINES if name in modes]
    order = baselines + [name for name in names if name not in baselines]
    result = {}
    for baseline in baselines:
        for name in order[order.index(baseline) + 1 :]:
            result[f"{name}/{baseline}"] = _speedup(modes[name], modes[baseline])
    return result


def _speedup(mode: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = mode["ttft_s"], baseline["ttft_s"]
    result: dict[str, Any] = {
        "throughput": _ratio(mode["throughput_rps"], baseline["throughput_rps"]),
        "ttft_mean": _ratio(theirs["mean"], ours["mean"]),
        "ttft_mean_returning": _ratio(theirs["mean_returning"], ours["mean_returning"]),
        "ttft_mean_turn5plus": _ratio(theirs["mean_turn5plus"], ours["mean_turn5plus"]),
        "ttft_by_turn": [
            _ratio(base, own) for own, base in zip(ours["by_turn"], theirs["by_turn"], strict=False)
        ],
    }
    if "by_class" in mode:
        result["by_class"] = {
            name: _speedup(numbers, baseline["by_class"][name])
            for name, numbers in mode["by_class"].items()
        }
    return result


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None


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
