"""What the benchmarks over servers show in addition to the table of a comparison: who talks, and the numbers by
class of user, by turn, and by source of prompt tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from vllm_pensieve.bench.result_tables import FACTOR, by_turn, cache_and_batches, prompt_shares
from vllm_pensieve.bench.statistics import STOCK, SUBJECT
from vllm_pensieve.machine import GB, GIB
from vllm_pensieve.tables import RULE, Table, said, seconds

TIMES_CAPTION = (
    "TTFT: mean; tail: 99th percentile of the time from sending a request to the end of its reply"
)
SHARES_CAPTION = (
    "resident and swapped are the GPU and CPU hit rates; recovered and new are computed"
)


PHASES = {
    "pensieve": "PENSIEVE (Concurrent Users with Hotness)",
    "vllm": "vLLM BASELINE (Concurrent Users - Stateless, Same Hotness)",
    "vllm-apc": "vLLM WITH PREFIX CACHING (Concurrent Users, Same Hotness)",
}
"""What the guide calls a mode; another one is called by its name."""


def users_line(workload: dict[str, Any]) -> str:
    """Return how many users there are, and the memory of each server."""
    users = workload["users"]
    number = "1 user" if len(users) == 1 else f"{len(users)} users"
    turns = f"{workload['turns']} turns a conversation" if workload["turns"] != 1 else "1 turn"
    text = f" after a text of {workload['history_tokens']:,} tokens"
    return (
        f"{number}, {turns}{text if workload['history_tokens'] else ''}, "
        f"{workload['requests']} requests a mode{memory_text(workload)}"
    )


def client_lines(workload: dict[str, Any]) -> Iterator[str]:
    """Yield one line a user, from 0 as in the guide: class, mean pause, what is asked and answered."""
    for number, user in enumerate(workload["users"]):
        kind = f"{user['class']} ({user['meaning']})"
        yield (
            f"  Client {number}: {kind:<18} interval={exact_seconds(user['pause_s'])}  "
            f"{user['turns']} turns, {user['input_tokens']:,} tokens in, {user['output_tokens']:,} out"
        )


def exact_seconds(value: float) -> str:
    """Return a pause with two digits after the point, or as many as it needs."""
    short = f"{value:.2f}"
    return f"{short}s" if abs(float(short) - value) < 1e-9 else f"{value:.6g}s"


def phase_lines(workload: dict[str, Any], mode: str, number: int) -> Iterator[str]:
    """Yield the heading of a mode, the `number`th from 1, and who talks; nothing but for several users with classes."""
    if len(workload.get("users", ())) > 1:
        yield ""
        yield f"PHASE {number}: {PHASES.get(mode, f'{mode} (Concurrent Users, Same Hotness)')}"
        yield from client_lines(workload)


def dataset_line(workload: dict[str, Any]) -> str:
    """Return what was taken from the dataset, in one line."""
    asked = workload["conversations_asked_for"]
    of_asked = f" of {asked} asked for" if asked != workload["sessions"] else ""
    cut = workload["turns_cut_to_fit"]
    left_out = f", {cut} turns cut to fit the context" if cut else ""
    return (
        f"{workload['dataset']}: {workload['sessions']} conversations{of_asked}, {workload['requests']} requests, "
        f"{workload['concurrency']} users at a time{left_out}{memory_text(workload)}"
    )


def memory_text(workload: dict[str, Any]) -> str:
    """Return the memory of each server in GB, with a comma before it; nothing where vLLM decides."""
    names = {"kv_cache_gib": "KV memory", "host_cache_gib": "host memory"}
    parts = [
        f"{workload[key] * GIB / GB:.3g} GB of {name}"
        for key, name in names.items()
        if workload[key] is not None
    ]
    return "".join(f", {part}" for part in parts)


def details(summary: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a benchmark's results."""
    modes = summary["modes"]
    pairs = {
        f"{SUBJECT}/{stock}": summary["speedup"][f"{SUBJECT}/{stock}"]
        for stock in STOCK
        if f"{SUBJECT}/{stock}" in summary["speedup"]
    }
    if modes:
        yield _times(modes)
    if pairs:
        yield _speedups(pairs)
        yield by_turn(summary)
    if any(numbers["prompt_shares"] for numbers in modes.values()):
        yield replace(prompt_shares(modes), caption=SHARES_CAPTION)
    if modes:
        yield cache_and_batches(modes)
        if next(iter(modes.values())).get("by_class"):
            yield _cached_by_class(modes)


def _times(modes: dict[str, Any]) -> Table:
    """One row a class and mode, then the modes over all users."""
    rows: list[Sequence[str]] = []
    classes = list(next(iter(modes.values())).get("by_class", ()))
    for user_class in [*classes, None]:
        for name, numbers in modes.items():
            own = numbers if user_class is None else numbers["by_class"][user_class]
            ttft = own["ttft_s"]
            rows.append(
                [
                    user_class or "all",
                    name,
                    str(own["requests"] - own["failed"]),
                    f"{own['duration_s']:.0f} s",
                    f"{own['throughput_rps']:.2f}",
                    f"{own['output_tok_s']:.1f}",
                    *(seconds(ttft[key]) for key in ("mean", "p50", "p99")),
                    seconds(own["e2e_s"]["p99"]),
                ]
            )
        rows.append(RULE)
    headings = ("users", "mode", "done", "total", "req/s", "tok/s", "TTFT", "p50", "p99", "tail")
    return Table(headings, rows, "Requests and times", TIMES_CAPTION, text=("mode",))


def _cached_by_class(modes: dict[str, Any]) -> Table:
    """One row a mode, one column a class of user."""
    classes = next(iter(modes.values())).get("by_class", ())
    rows = [
        [name, *(said(numbers["by_class"][own]["cached_share"], "{:.0%}") for own in classes)]
        for name, numbers in modes.items()
    ]
    return Table(("mode", *classes), rows, "Prompt tokens from a cache, by class of user")


def _speedups(pairs: dict[str, Any]) -> Table:
    """One row a class, two columns a pair."""
    rows = []
    for user_class in [*next(iter(pairs.values())).get("by_class", ()), None]:
        cells = []
        for speedup in pairs.values():
            own = speedup if user_class is None else speedup["by_class"][user_class]
            cells += [said(own[key], FACTOR) for key in ("ttft_mean", "throughput")]
        rows.append([user_class or "all", *cells])
    stocks = [pair.split("/")[1] for pair in pairs]
    headings = [f"{what}, {stock}" for stock in stocks for what in ("TTFT", "throughput")]
    return Table(("users", *headings), rows, "Speed-ups of pensieve")
