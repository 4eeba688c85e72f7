"""The measurement sheet: a summary as a page of Markdown, with what the guide expects next to what was measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_pensieve.bench.result_tables import (
    FACTOR,
    SHARE,
    TIME,
    by_turn,
    cache_and_batches,
    prompt_shares,
)
from vllm_pensieve.bench.statistics import STOCK, SUBJECT
from vllm_pensieve.machine import GB, GIB
from vllm_pensieve.tables import Table, markdown, said

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
        _section("Set-up", markdown(Table(("", ""), _set_up(summary)))),
        _section("Expected and measured", _expected(summary)),
        *(_section(table.title, _with_caption(table)) for table in _tables(summary)),
        _section("Remarks", "".join(f"- {remark}\n" for remark in _remarks(summary))),
    ]
    return "\n".join(section for section in sections if section)


def _tables(summary: dict[str, Any]) -> list[Table]:
    modes = summary["modes"]
    by_class = ("class", "mode", *TIMES, "prompt tokens from a cache")
    return [
        Table(("mode", "missing", *TIMES), _by_mode(modes), "By mode"),
        Table(by_class, _by_class(summary), "By class of user"),
        by_turn(summary),
        prompt_shares(modes),
        cache_and_batches(modes),
        _speedups(summary["speedup"]),
    ]


def _with_caption(table: Table) -> str:
    body = markdown(table)
    return f"{body}\n{table.caption}\n" if body and table.caption else body


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


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
            size_gb = None if value is None else value * GIB / GB
            rows.append((name.removesuffix("_gib").replace("_", " "), said(size_gb, "{:.3f} GB")))
        elif not isinstance(value, list):
            rows.append((name.replace("_", " "), said(value, "{}")))
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
        said(numbers["duration_s"], TIME),
        f"{numbers['throughput_rps']:.3f}",
        f"{numbers['output_tok_s']:.1f}",
        *(said(numbers["ttft_s"][key], TIME) for key in ("mean", "p50", "p99")),
        said(numbers["e2e_s"]["p99"], TIME),
    ]


def _by_mode(modes: dict[str, Any]) -> list[list[str]]:
    return [[name, str(numbers["missing"]), *_times(numbers)] for name, numbers in modes.items()]


def _by_class(summary: dict[str, Any]) -> list[list[str]]:
    return [
        [user_class, name, *_times(own), said(own["cached_share"], SHARE)]
        for name, numbers in summary["modes"].items()
        for user_class, own in numbers.get("by_class", {}).items()
    ]


def _speedups(speedups: dict[str, Any]) -> Table:
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
        "In brackets: where a TTFT factor lies in 95 % of resamplings of the conversations, and a throughput factor "
        "in the repeats. Only requests that both modes answered count (n)."
    )
    return Table(("mode/baseline", "users", "n", *keys.values()), rows, "Speed-ups", note)


def _expected(summary: dict[str, Any]) -> str:
    """Each figure the guide names, next to ours against both stock modes."""
    pairs = [summary["speedup"].get(f"{SUBJECT}/{stock}") for stock in STOCK]
    speedups = [
        [what, expected, *(said(_found(find, pair), FACTOR, NOT_MEASURED) for pair in pairs)]
        for what, expected, find in EXPECTED_SPEEDUPS
    ]
    shares = [
        summary["modes"].get(name, {}).get("prompt_shares", {}) for name in (SUBJECT, "vllm-apc")
    ]
    rates = [
        [what, expected, *(said(share.get(source), SHARE, NOT_MEASURED) for share in shares)]
        for what, expected, source in EXPECTED_HIT_RATES
    ]
    headings = ("speed-up of pensieve", "guide, against stateless vLLM")
    return (
        markdown(
            Table((*headings, "measured against `vllm`", "measured against `vllm-apc`"), speedups)
        )
        + "\n"
        + markdown(Table(("share of prompt tokens", "guide", "`pensieve`", "`vllm-apc`"), rates))
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


def _factor_between(speedup: dict[str, Any], key: str) -> str:
    """A factor and the interval it may lie in, if there is one."""
    between = speedup["throughput_range" if key == "throughput" else f"{key}_95"]
    interval = f" ({between[0]:.2f} to {between[1]:.2f})" if between else ""
    return said(speedup[key], FACTOR) + interval
