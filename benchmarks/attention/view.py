"""The tables of `pensieve bench kernels`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm_pensieve.tables import Table


def tables(result: dict[str, Any]) -> Iterator[Table | str]:
    """What was measured; for each case its title, its table, and what was left out and why."""
    options, where = result["options"], result["device"]
    if where == "cpu":
        where += f" with {result['threads']} threads"
    yield (
        f"{options['heads']} heads, {options['kv_heads']} of KV, {options['head_dim']} numbers each, "
        f"{options['dtype']}, on {where}; medians of {options['iters']} runs in turn"
    )
    if options["verify"]:
        yield (
            "error: the largest against dense attention in float32; of allowed: that of the worst query, allowed "
            f"is {_tolerance(result):.3%} of its largest number"
        )
    for case in result["results"]:
        yield f"\n{_title(case)}"
        yield _table(case)
        for name, reason in case["left_out"].items():
            yield f"{name} is left out: {reason}"


def wrong_ways(result: dict[str, Any]) -> list[str]:
    """A line for each way whose result was wrong."""
    return [
        f"{way['name']} is WRONG for {_title(case)}: off by {way['error']:.1e}, "
        f"{way['share_of_allowed']:.1f} times what is allowed"
        for case in result["results"]
        for way in case["ways"]
        if not way.get("right", True)
    ]


def _table(case: dict[str, Any]) -> Table:
    verified = "error" in case["ways"][0]
    rows = [
        [
            way["name"],
            f"{way['ms']:.2f}",
            f"{way['ratio_to_dense']:.2f}",
            f"{way['gflop_s']:.1f}",
            *([f"{way['error']:.1e}", f"{way['share_of_allowed']:.0%}"] if verified else []),
            way["note"],
        ]
        for way in case["ways"]
    ]
    errors = ("error", "of allowed") if verified else ()
    wrong = [number for number, way in enumerate(case["ways"]) if not way.get("right", True)]
    headings = ("way", "ms", "x dense", "GFLOP/s", *errors, "by")
    return Table(headings, rows, text=("by",), alarming=wrong)


def _title(case: dict[str, Any]) -> str:
    runs = case["dropped_runs"]
    kv = "all KV there"
    if runs:
        length = runs[0][1] - runs[0][0]
        kv = f"{len(runs)} dropped run{'s' * (len(runs) > 1)} of {length} tokens computed again"
    return (
        f"{case['batch']} requests, {case['query_tokens']} new tokens after {case['key_tokens']} "
        f"in {case['pieces']} pieces, blocks of {case['block_tokens']}; {kv}"
    )


def _tolerance(result: dict[str, Any]) -> float:
    return float(result["results"][0]["ways"][0]["tolerance"])
