"""What the benchmarks over servers show beside the table of a comparison: who talks, and the numbers by
class of user, by turn, and by source of prompt tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from vllm_pensieve.bench.counters import SOURCES
from vllm_pensieve.bench.plan import GB, GIB
from vllm_pensieve.bench.statistics import STOCK, SUBJECT
from vllm_pensieve.cli.view import seconds

TAIL_CAPTION = (
    "TTFT: mean; tail: 99th percentile of the time from sending a request to the end of its reply"
)
SHARES_CAPTION = (
    "resident and swapped are the GPU and CPU hit rates; recovered and new are computed"
)


def client_table(workload: dict[str, Any]) -> Table:
    """Return one row a user: class, mean pause, turns, tokens."""
    memory = memory_text(workload).removeprefix(", ")
    table = _table(f"{len(workload['users'])} users", "user", "class", caption=memory)
    for heading in ("pause", "turns", "tokens in", "tokens out"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, user in enumerate(workload["users"], start=1):
        table.add_row(
            str(number),
            user["class"],
            f"{user['pause_s']:.1f} s",
            str(user["turns"]),
            f"{user['input_tokens']:,}",
            f"{user['output_tokens']:,}",
        )
    return table


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
    if modes:
        yield _times(modes)
    pairs = {
        f"{SUBJECT}/{stock}": summary["speedup"][f"{SUBJECT}/{stock}"]
        for stock in STOCK
        if f"{SUBJECT}/{stock}" in summary["speedup"]
    }
    if pairs:
        yield _speedups(pairs)
        yield _by_turn(pairs)
    if any(numbers["prompt_shares"] for numbers in modes.values()):
        yield _shares(modes)


def _table(title: str, *left: str, caption: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.caption = caption
    for heading in left:
        table.add_column(heading, overflow="fold")
    return table


def _times(modes: dict[str, Any]) -> Table:
    """One row a class and mode, then the modes over all users."""
    table = _table("Requests and times", "users", "mode", caption=TAIL_CAPTION)
    headings = ("done", "total", "req/s", "tok/s", "TTFT", "p50", "p99", "tail")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    classes = list(next(iter(modes.values())).get("by_class", ()))
    for user_class in [*classes, None]:
        for name, numbers in modes.items():
            own = numbers if user_class is None else numbers["by_class"][user_class]
            ttft = own["ttft_s"]
            table.add_row(
                user_class or "all",
                name,
                str(own["requests"] - own["failed"]),
                f"{own['duration_s']:.0f} s",
                f"{own['throughput_rps']:.2f}",
                f"{own['output_tok_s']:.1f}",
                seconds(ttft["mean"]),
                seconds(ttft["p50"]),
                seconds(ttft["p99"]),
                seconds(own["e2e_s"]["p99"]),
            )
        table.add_section()
    return table


def _speedups(pairs: dict[str, Any]) -> Table:
    """One row a class, two columns a pair."""
    table = _table("Speed-ups of pensieve", "users")
    for pair in pairs:
        stock = pair.split("/")[1]
        table.add_column(f"TTFT, {stock}", justify="right")
        table.add_column(f"throughput, {stock}", justify="right")
    classes = list(next(iter(pairs.values())).get("by_class", ()))
    for user_class in [*classes, None]:
        cells = []
        for speedup in pairs.values():
            own = speedup if user_class is None else speedup["by_class"][user_class]
            cells += [_times_better(own["ttft_mean"]), _times_better(own["throughput"])]
        table.add_row(user_class or "all", *cells)
    return table


def _by_turn(pairs: dict[str, Any]) -> Table:
    table = _table("TTFT speed-up by turn", "turn")
    for pair in pairs:
        table.add_column(f"TTFT, {pair.split('/')[1]}", justify="right")
    columns = [speedup["ttft_by_turn"] for speedup in pairs.values()]
    for turn, factors in enumerate(zip_longest(*columns), start=1):
        table.add_row(str(turn), *map(_times_better, factors))
    return table


def _shares(modes: dict[str, Any]) -> Table:
    table = _table("Where prompt tokens came from", "mode", caption=SHARES_CAPTION)
    for source in SOURCES:
        table.add_column(source, justify="right")
    for name, numbers in modes.items():
        shares = numbers["prompt_shares"]
        table.add_row(
            name,
            *(f"{shares[source]:.1%}" if source in shares else "-" for source in SOURCES),
        )
    return table


def _times_better(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"
