"""How many times better one mode is than another: over the requests that both answered, and with what spread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.bench.exchanges import Exchange
from vllm_pensieve.bench.statistics import BASELINES, LATE_TURN, is_answered, throughput_rps

RESAMPLES = 2000
RESAMPLING_SEED = 0
INTERVAL_PERCENT = (2.5, 97.5)

Key = tuple[str, int]
"""Session and turn."""
Repeat = Mapping[Key, Exchange]
Pair = tuple[Repeat, Repeat]
"""One repeat of a mode and of its baseline, the same requests in both."""


def speedups(
    modes: Mapping[str, Sequence[Sequence[Exchange]]], classes: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Return, for every mode over every baseline before it, how many times better it is (above 1: better).

    `modes` has the records of each repeat of a mode; `classes` maps sessions to classes of users. Names are
    `mode/baseline`. Only requests that both answered count, in each repeat by itself; of the repeats' figures the
    median is taken. `left_out` of them are missing in one or the other, and without all of them there is no
    throughput to compare: the mode that broke off had less to do. `..._95` is where the mean's ratio lies in 95 % of
    2,000 resamplings of the conversations, None with fewer than two of them; `throughput_range` is over the repeats.
    """
    names = list(modes)
    baselines = [name for name in BASELINES if name in modes]
    order = baselines + [name for name in names if name not in baselines]
    return {
        f"{name}/{baseline}": _compare(modes[name], modes[baseline], classes)
        for baseline in baselines
        for name in order[order.index(baseline) + 1 :]
    }


def _compare(
    mode: Sequence[Sequence[Exchange]],
    baseline: Sequence[Sequence[Exchange]],
    classes: Mapping[str, str] | None,
) -> dict[str, Any]:
    pairs: list[Pair] = []
    left_out = 0
    for own, base in zip(mode, baseline, strict=False):
        ours, theirs = _answered(own), _answered(base)
        both = [key for key in ours if key in theirs]
        asked = {(record.session, record.turn) for record in (*own, *base)}
        left_out += len(asked) - len(both)
        pairs.append(({key: ours[key] for key in both}, {key: theirs[key] for key in both}))
    result = _figures(pairs, left_out)
    if classes:
        result["by_class"] = {
            name: _figures([_of_class(pair, name, classes) for pair in pairs], left_out)
            for name in dict.fromkeys(classes.values())
        }
    return result


def _answered(records: Sequence[Exchange]) -> dict[Key, Exchange]:
    return {(record.session, record.turn): record for record in records if is_answered(record)}


def _of_class(pair: Pair, name: str, classes: Mapping[str, str]) -> Pair:
    ours, theirs = (
        {key: record for key, record in side.items() if classes.get(key[0]) == name}
        for side in pair
    )
    return ours, theirs


def _figures(pairs: Sequence[Pair], left_out: int) -> dict[str, Any]:
    turns = max((turn for ours, _ in pairs for _, turn in ours), default=0)
    ratios = [] if left_out else [r for pair in pairs if (r := _throughput_ratio(pair)) is not None]
    return {
        "requests": sum(len(ours) for ours, _ in pairs),
        "sessions": len({session for ours, _ in pairs for session, _ in ours}),
        "left_out": left_out,
        "throughput": float(np.median(ratios)) if ratios else None,
        "throughput_range": [min(ratios), max(ratios)] if len(ratios) > 1 else None,
        **_ttft("ttft_mean", pairs, lambda turn: True),
        **_ttft("ttft_mean_returning", pairs, lambda turn: turn > 1),
        **_ttft("ttft_mean_turn5plus", pairs, lambda turn: turn >= LATE_TURN),
        "ttft_by_turn": [
            _ratio(_sums(pairs, lambda turn, number=number: turn == number))  # type: ignore[misc]
            for number in range(1, turns + 1)
        ],
        "requests_by_turn": [
            sum(turn == number for ours, _ in pairs for _, turn in ours)
            for number in range(1, turns + 1)
        ],
    }


def _throughput_ratio(pair: Pair) -> float | None:
    ours, theirs = (throughput_rps(list(side.values())) for side in pair)
    return ours / theirs if theirs else None


def _ttft(name: str, pairs: Sequence[Pair], wanted: Callable[[int], bool]) -> dict[str, Any]:
    sums = _sums(pairs, wanted)
    return {name: _ratio(sums), f"{name}_95": _interval(sums)}


def _sums(pairs: Sequence[Pair], wanted: Callable[[int], bool]) -> NDArray[np.float64]:
    """TTFT in s, summed over the wanted turns of each session: [2 (own, baseline), repeats, sessions]."""
    keys = {key for ours, _ in pairs for key in ours if wanted(key[1])}
    column = {
        session: number for number, session in enumerate(sorted({session for session, _ in keys}))
    }
    sums = np.zeros((2, len(pairs), len(column)))
    for repeat, pair in enumerate(pairs):
        for side, records in enumerate(pair):
            for key, record in records.items():
                if key in keys:
                    sums[side, repeat, column[key[0]]] += record.ttft_s or 0.0
    return sums


def _ratio(sums: NDArray[np.float64]) -> float | None:
    """Of the means, which are over the same requests, so of the sums; the median of the repeats."""
    ratios = _ratios(sums.sum(axis=-1))
    return float(np.nanmedian(ratios)) if np.isfinite(ratios).any() else None


def _interval(sums: NDArray[np.float64]) -> list[float] | None:
    sessions = sums.shape[-1]
    if sessions < 2:
        return None
    rng = np.random.default_rng(RESAMPLING_SEED)
    drawn = rng.integers(sessions, size=(RESAMPLES, sessions))
    ratios = _ratios(sums[:, :, drawn].sum(axis=-1))  # [repeats, resamples]
    if not np.isfinite(ratios).any():
        return None
    low, high = np.nanpercentile(_median_of_repeats(ratios), INTERVAL_PERCENT)
    return [float(low), float(high)]


def _median_of_repeats(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """A repeat without any request is left out."""
    known = ratios[np.isfinite(ratios).any(axis=1)]
    return np.asarray(np.nanmedian(known, axis=0))


def _ratios(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Baseline over own; NaN where there is nothing to compare."""
    own, baseline = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(own > 0, baseline / own, np.nan)
