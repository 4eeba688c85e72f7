"""What one should know before believing the numbers of a comparison, in sentences made from its summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm_pensieve.workloads.dataset import counted, skipped_remark

EQUAL_SHARES = 0.01
"""Modes that compute shares of their prompt tokens that differ by less do the same work."""
OWN_LOAD = 1.5
"""Load a core that a server on a CPU and its clients may make themselves."""


def remarks(summary: dict[str, Any]) -> list[str]:
    """Return the sentences for a summary, those on missing requests first."""
    return [
        *_stepped_back(summary["stepped_back"]),
        *_missing(summary),
        *_left_out(summary["speedup"]),
        *skipped_records(summary["workload"]),
        *_loaded(summary["machine"]),
        *_replies(summary["modes"]),
        *_first_turns(summary["modes"]),
        *_equal_shares(summary),
    ]


def skipped_records(workload: dict[str, Any]) -> Iterator[str]:
    """Yield what a data set's bad records are, if it has any; a workload that was generated has no records."""
    remark = skipped_remark(
        str(workload.get("dataset")),
        workload.get("records_skipped") or 0,
        workload.get("records") or 0,
        workload.get("first_skipped"),
    )
    if remark:
        yield remark


def stepped_back_remark(mode: str, why: str) -> str:
    """Return the sentence for a mode that was measured without the plugin, which it is about."""
    return f"{mode}: the plugin STEPPED BACK, what was measured is vLLM's own caching: {why}"


def _stepped_back(modes: dict[str, str]) -> Iterator[str]:
    for mode, why in modes.items():
        yield stepped_back_remark(mode, why)


def _missing(summary: dict[str, Any]) -> Iterator[str]:
    for name, numbers in summary["modes"].items():
        missing = numbers["missing"]
        if missing:
            answered = numbers["requests"] - numbers["failed"]
            yield (
                f"{name}: {missing:,} of {counted(answered + missing, 'turn')} without an answer; its figures are over "
                f"the {answered:,} that have one"
            )


def _left_out(speedups: dict[str, Any]) -> Iterator[str]:
    for pair, speedup in speedups.items():
        if speedup["left_out"]:
            yield (
                f"{pair}: compared over the {counted(speedup['requests'], 'request')} that both answered, without "
                f"throughput ({counted(speedup['left_out'], 'request')} missing in one of them)"
            )


def _loaded(machine: dict[str, Any]) -> Iterator[str]:
    load, cores = machine["load_average_1min"], machine["cores"]
    if load > OWN_LOAD * cores:
        yield (
            f"load average {load:.1f} on {counted(cores, 'core')}: other programs ran, too, which may have cost time; "
            "measure again when the machine is idle"
        )


def _replies(modes: dict[str, Any]) -> Iterator[str]:
    for name, numbers in modes.items():
        unmatched = numbers["unmatched_tokens"]
        if unmatched["total"]:
            yield (
                f"{name}: {counted(unmatched['requests'], 'prompt')} did not repeat "
                f"{counted(unmatched['total'], 'token')} of the turn before (a reply sent back can become other "
                "tokens, and a chat template can change it); no cache can find those; by turn: "
                f"{', '.join(f'{tokens:,}' for tokens in unmatched['by_turn'])}"
            )
        if numbers["reasoning_only"]:
            yield (
                f"{name}: {numbers['reasoning_only']:,} of {numbers['requests']:,} replies were thoughts "
                "without an answer; later turns contain of them what the chat template sends back"
            )


def _first_turns(modes: dict[str, Any]) -> Iterator[str]:
    most = max((numbers["first_turns_at_start"] for numbers in modes.values()), default=0)
    if most > 1:
        yield (
            f"{most} conversations sent their first turn before any reply began: TTFT of turn 1, and of all turns, "
            "contains their waiting for each other; TTFT of returning turns does not"
        )


def _equal_shares(summary: dict[str, Any]) -> Iterator[str]:
    for pair in summary["speedup"]:
        shares = [_computed(summary["modes"][name]) for name in pair.split("/")]
        own, base = shares
        if own is not None and base is not None and abs(own - base) < EQUAL_SHARES:
            yield (
                f"{pair}: both computed {own:.0%} of their prompt tokens; a difference in time between them does not "
                "come from what was found in the cache"
            )


def _computed(numbers: dict[str, Any]) -> float | None:
    """Share of prompt tokens that were computed, None if it is not known."""
    shares = numbers["prompt_shares"]
    return shares["recovered"] + shares["new"] if "new" in shares else None
