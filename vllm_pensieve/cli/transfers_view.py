"""The tables of `pensieve bench transfers`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from vllm_pensieve.tables import RULE, Table

MIB = 1024**2


def tables(result: dict[str, Any]) -> Iterator[Table]:
    """The bandwidths, and the swap-ins by layers, of one run."""
    yield _bandwidths(result)
    yield _swap_ins(result["swap_in"])


def _bandwidths(result: dict[str, Any]) -> Table:
    by_rows = any("rows_store_gb_s" in row for row in result["transfers"])
    caption = "GB/s; share: of the speed of one plain copy of the same bytes in the same direction"
    if by_rows:
        caption += "; rows: memcpy of each row in the order given"
    model = result["model"]
    title = (
        f"{model['name']}: {model['kv_bytes_per_token']} bytes a token in {model['layers']} layers, "
        f"KV cache on {result['device']}"
    )
    rows: list[Sequence[str]] = []
    for _, group in groupby(result["transfers"], lambda row: (row["pattern"], row["block_tokens"])):
        rows += [
            [
                row["pattern"],
                str(row["block_tokens"]),
                str(row["blocks"]),
                f"{row['bytes'] / MIB:.1f}",
                *_cells(row, "store", by_rows),
                *_cells(row, "load", by_rows),
            ]
            for row in group
        ]
        rows.append(RULE)
    own = ["share", *(["rows"] if by_rows else [])]
    headings = ("pattern", "tokens", "blocks", "MiB", "store", *own, "load", *own)
    return Table(headings, rows, title, caption)


def _cells(row: dict[str, Any], direction: str, by_rows: bool) -> list[str]:
    return [
        f"{row[f'{direction}_gb_s']:.1f}",
        f"{row[f'{direction}_share_of_plain']:.0%}",
        *([f"{row[f'rows_{direction}_gb_s']:.1f}"] if by_rows else []),
    ]


def _swap_ins(swap_ins: list[dict[str, Any]]) -> Table:
    times = ("copy", "compute", "sequential", "pipelined")
    rows = [
        [
            str(row["block_tokens"]),
            str(row["blocks"]),
            *(f"{row[f'{name}_ms']:.2f}" for name in times),
            f"{row['speedup']:.2f}x",
            f"{row['overlap_percent']:.0f} %",
        ]
        for row in swap_ins
    ]
    return Table(
        ("tokens", "blocks", *times, "speed-up", "hidden"),
        rows,
        "Load and compute: all layers one after the other, and by layers",
        "ms; hidden: share of the shorter of copy and compute that ran alongside the other",
    )
