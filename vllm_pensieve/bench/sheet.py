"""The measurement sheet: a summary as a page of Markdown, with what the guide expects next to what was measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from vllm_pensieve.bench.counters import SOURCES
from vllm_pensieve.bench.statistics import STOCK, SUBJECT
from vllm_pensieve.machine import GB, GIB

NOT_MEASURED = "not measured"

Find = Callable[[dict[str, Any]], Any]

EXPECTED_SPEEDUPS: tuple[tuple[str, str, Find], ...] = (
    ("prefill (TTFT), turn 5", "2.0x", lambda speedup: speedup["ttft_by_turn"][4]),
    ("prefill (TTFT), turn 10", "3.5x", lambda speedup: speedup["ttft_by_turn"][9]),
    ("throughput", "1.36x", lambda speedup: speedup["throughput"]),
    ("TTFT of HOT users", "1.8x to 2.5x", lambda speedup: speedup["by_class"]["HOT"]["ttft_mean"]),
    (
        "TTFT of WARM users",
        "1.3x to 1.8x",
        lambda speedup: speedup["by_class"]["WARM"]["ttft_mean"],
    ),
    (
        "TTFT of COLD users",
        "1.1x to 1.5x",
        lambda speedup: speedup["by_class"]["COLD"]["ttft_mean"],
    ),
)
"""What the guide expects against stateless vLLM, and where a pair of modes has its own figure."""

EXPECTED_HIT_RATES = (
    ("GPU hit rate (resident)", "70 %", "resident"),
    ("CPU hit rate (swapped)", "20 %", "swapped"),
)


def write_sheet(path: Path, summary: dict[str, Any]) -> None:
    """Write the sheet next to its place and rename it, so that a reader never sees half of it."""
    work = path.with_name(f"{path.name}.partial")
    work.write_text(make_sheet(summary), encoding="utf-8")
    os.replace(work, path)


def make_sheet(summary: dict[str, Any]) -> str:
    """Return the sheet of a summary of `pensieve compare`, `bench users` or `bench sharegpt`."""
    sections = [
        f"# Measurement sheet, {summary['date']}\n",
        f"```\n{summary['command']}\n```\n",
        _section("Set-up", _table(("", ""), _set_up(summary))),
        _section("Expected and measured", _expected(summary)),
        _section("By mode", _table(("mode", "missing", *TIMES), _by_mode(summary["modes"]))),
        _section(
            "By class of user",
            _table(("class", "mode", *TIMES, "prompt tokens from a cache"), _by_class(summary)),
        ),
        _section("By turn", _by_turn(summary)),
        _section("Where prompt tokens came from", _hit_rates(summary["modes"])),
        _section("Cache and batches", _cache(summary["modes"])),
        _section("Speed-ups", _speedups(summary["speedup"])),
        _section("Remarks", "".join(f"- {remark}\n" for remark in _remarks(summary))),
    ]
    return "\n".join(section for section in sections if section)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, or nothing without rows."""
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    if not lines:
        return ""
    rule = ["---"] * len(headings)
    return "".join(f"| {' | '.join(line)} |\n" for line in [list(headings), rule, *lines])


def _set_up(summary: dict[str, Any]) -> list[tuple[str, str]]:
    machine, workload = summary["machine"], summary["workload"]
    rows = [
        ("machine", f"{machine['processor']}, {machine['cores']} cores"),
        ("GPUs", ", ".join(machine["gpus"]) or "none"),
        ("memory", f"{machine['memory_bytes'] / GB:.1f} GB"),
        ("system", str(machine["system"])),
        ("load average at the end", f"{machine['load_average_1min']:.2f}"),
        ("versions", ", ".join(f"{name} {said}" for name, said in summary["versions"].items())),
    ]
    for name, value in workload.items():
        if name.endswith("_gib"):
            size = "-" if value is None else f"{value * GIB / GB:.3f} GB"
            rows.append((name.removesuffix("_gib").replace("_", " "), size))
        elif not isinstance(value, list):
            rows.append((name.replace("_", " "), "-" if value is None else str(value)))
    return rows


TIMES = (
    "requests",
    "failed",
    "total",
    "req/s",
    "output tok/s",
    "TTFT mean",
    "TTFT p50",
    "TTFT p99",
    "tail (e2e p99)",
)


def _times(numbers: dict[str, Any]) -> list[str]:
    return [
        str(numbers["requests"]),
        str(numbers["failed"]),
        _seconds(numbers["duration_s"]),
        f"{numbers['throughput_rps']:.3f}",
        f"{numbers['output_tok_s']:.1f}",
        *(_seconds(numbers["ttft_s"][key]) for key in ("mean", "p50", "p99")),
        _seconds(numbers["e2e_s"]["p99"]),
    ]


def _by_mode(modes: dict[str, Any]) -> list[list[str]]:
    return [[name, str(numbers["missing"]), *_times(numbers)] for name, numbers in modes.items()]


def _by_class(summary: dict[str, Any]) -> list[list[str]]:
    return [
        [user_class, name, *_times(own), _percent(own["cached_share"])]
        for name, numbers in summary["modes"].items()
        for user_class, own in numbers.get("by_class", {}).items()
    ]


def _by_turn(summary: dict[str, Any]) -> str:
    """Mean TTFT of each mode, of how many requests (in the mode that answered fewest), and each speed-up."""
    modes = summary["modes"]
    pairs = {pair: s for pair, s in summary["speedup"].items() if pair.startswith(f"{SUBJECT}/")}
    turns = max((len(numbers["ttft_s"]["by_turn"]) for numbers in modes.values()), default=0)
    rows = []
    for index in range(turns):
        means = [_at(numbers["ttft_s"]["by_turn"], index) for numbers in modes.values()]
        better = [_at(speedup["ttft_by_turn"], index) for speedup in pairs.values()]
        answered = [_at(n["ttft_s"]["requests_by_turn"], index) or 0 for n in modes.values()]
        fewest = str(min(answered))
        rows.append([str(index + 1), fewest, *map(_seconds, means), *map(_factor, better)])
    return _table(("turn", "n", *(f"{name}, mean TTFT" for name in modes), *pairs), rows)


def _hit_rates(modes: dict[str, Any]) -> str:
    rows = [
        [name, str(numbers["prompt_tokens"].get("total", 0))]
        + [_percent(numbers["prompt_shares"].get(source)) for source in SOURCES]
        for name, numbers in modes.items()
    ]
    headings = ("resident (GPU hits)", "swapped (CPU hits)", "recovered", "new")
    return _table(("mode", "prompt tokens", *headings), rows)


def _cache(modes: dict[str, Any]) -> str:
    """What the plugin did with its memory, and how many requests were answered at the same time."""
    rows = []
    for name, numbers in modes.items():
        cache, batch = numbers["cache"], numbers["batch"]
        evictions = cache.get("evictions", {})
        counts = (evictions.get("host"), evictions.get("dropped"), cache.get("recoveries"))
        rows.append(
            [
                name,
                *(_gigabytes(cache.get(f"{tier}_gb")) for tier in ("gpu", "cpu")),
                *("-" if count is None else str(count) for count in counts),
                "-" if batch["mean"] is None else f"{batch['mean']:.2f}",
                str(batch["most"]),
            ]
        )
    usage = ("GPU cache usage", "CPU cache usage")
    evictions = ("evictions to host memory", "evictions, dropped", "recoveries")
    return _table(("mode", *usage, *evictions, "batch, mean", "batch, most"), rows)


def _gigabytes(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g} GB"


def _speedups(speedups: dict[str, Any]) -> str:
    keys = {
        "throughput": "throughput",
        "ttft_mean": "TTFT",
        "ttft_mean_returning": "TTFT of returning turns",
        "ttft_mean_turn5plus": "TTFT from turn 5 on",
    }
    rows = [
        [pair, users, str(own["requests"]), *(_factor_between(own, key) for key in keys)]
        for pair, speedup in speedups.items()
        for users, own in [("all", speedup), *speedup.get("by_class", {}).items()]
    ]
    note = (
        "\nIn brackets: where a TTFT factor lies in 95 % of resamplings of the conversations, and a throughput factor "
        "in the repeats. Only requests that both modes answered count (n).\n"
    )
    table = _table(("mode/baseline", "users", "n", *keys.values()), rows)
    return table and table + note


def _expected(summary: dict[str, Any]) -> str:
    """Each figure the guide names, next to ours against both stock modes."""
    pairs = [summary["speedup"].get(f"{SUBJECT}/{stock}") for stock in STOCK]
    speedups = [
        [what, expected, *(_factor(_found(find, pair), NOT_MEASURED) for pair in pairs)]
        for what, expected, find in EXPECTED_SPEEDUPS
    ]
    shares = [
        summary["modes"].get(name, {}).get("prompt_shares", {}) for name in (SUBJECT, "vllm-apc")
    ]
    rates = [
        [what, expected, *(_percent(share.get(source), NOT_MEASURED) for share in shares)]
        for what, expected, source in EXPECTED_HIT_RATES
    ]
    headings = ("speed-up of pensieve", "guide, against stateless vLLM")
    return (
        _table((*headings, "measured against `vllm`", "measured against `vllm-apc`"), speedups)
        + "\n"
        + _table(("share of prompt tokens", "guide", "`pensieve`", "`vllm-apc`"), rates)
    )


def _remarks(summary: dict[str, Any]) -> list[str]:
    remarks = [*summary["workload"].get("notes", []), *summary["remarks"]]
    if summary["interrupted"]:
        remarks.append("interrupted: these are the requests that had finished")
    if summary["outputs_identical"]:
        remarks.append("all outputs are identical")
    remarks += [
        f"{count} requests got different texts: {pair}"
        for pair, count in summary["outputs_differing"].items()
        if count
    ]
    remarks += [f"{mode} is not available: {why}" for mode, why in summary["unavailable"].items()]
    for failure in summary["failures"]:
        said = [f"{sum(failure['requests'].values())} requests failed", failure["server"]]
        remarks.append(f"{failure['mode']}: {', '.join(part for part in said if part)}")
    return remarks


def _found(find: Find, speedup: dict[str, Any] | None) -> float | None:
    """A figure of a pair of modes; None if the run has no such figure."""
    if speedup is None:
        return None
    try:
        return find(speedup)
    except (KeyError, IndexError):
        return None


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


def _factor(value: float | None, missing: str = "-") -> str:
    return missing if value is None else f"{value:.2f}x"


def _factor_between(speedup: dict[str, Any], key: str) -> str:
    """A factor and the interval it may lie in, if there is one."""
    between = speedup["throughput_range" if key == "throughput" else f"{key}_95"]
    return _factor(speedup[key]) + (f" ({between[0]:.2f} to {between[1]:.2f})" if between else "")


def _percent(value: float | None, missing: str = "-") -> str:
    return missing if value is None else f"{value:.1%}"
