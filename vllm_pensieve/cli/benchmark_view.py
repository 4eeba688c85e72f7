"""What the benchmarks over servers show in addition to the table of a comparison: who talks, and the numbers by
class of user, by turn, and by source of prompt tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from vllm_pensieve.bench.counters import SOURCES
from vllm_pensieve.bench.statistics import STOCK, SUBJECT
from vllm_pensieve.cli.numbers import seconds
from vllm_pensieve.machine import GB, GIB

TAIL_CAPTION = (
    "TTFT: mean; tail: 99th percentile of the time from sending a request to the end of its reply"
)
CACHE_CAPTION = (
    "batch: requests answered at the same time, mean and most; GPU GB, CPU GB: used at the end; to CPU, dropped: "
    "blocks that left the GPU; recov.: requests with dropped blocks computed again; by class: "
    "prompt tokens from a cache"
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
    if modes:
        yield _cache(modes)


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
    """The figures of each turn, and of how many requests that both modes answered."""
    table = _table("TTFT speed-up by turn", "turn")
    table.add_column("n", justify="right")
    for pair in pairs:
        table.add_column(f"TTFT, {pair.split('/')[1]}", justify="right")
    columns = [speedup["ttft_by_turn"] for speedup in pairs.values()]
    counts = [speedup["requests_by_turn"] for speedup in pairs.values()]
    for turn, (factors, n) in enumerate(
        zip(zip_longest(*columns), zip_longest(*counts, fillvalue=0), strict=True), start=1
    ):
        table.add_row(str(turn), str(min(n)), *map(_times_better, factors))
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


def _cache(modes: dict[str, Any]) -> Table:
    """One row a mode: batch sizes, what the plugin did with its memory, and the cached share of each class."""
    table = _table("Cache and batches", "mode", caption=CACHE_CAPTION)
    classes = list(next(iter(modes.values())).get("by_class", ()))
    headings = ("batch", "GPU GB", "CPU GB", "to CPU", "dropped", "recov.")
    for heading in (*headings, *classes):
        table.add_column(heading, justify="right")
    for name, numbers in modes.items():
        cache, batch = numbers["cache"], numbers["batch"]
        evictions = cache.get("evictions", {})
        cells = [
            "-" if batch["mean"] is None else f"{batch['mean']:.1f}/{batch['most']}",
            _gb(cache.get("gpu_gb")),
            _gb(cache.get("cpu_gb")),
            _count(evictions.get("host")),
            _count(evictions.get("dropped")),
            _count(cache.get("recoveries")),
        ]
        shares = [numbers["by_class"][user_class]["cached_share"] for user_class in classes]
        table.add_row(name, *cells, *("-" if s is None else f"{s:.0%}" for s in shares))
    return table


def _gb(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _times_better(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"
