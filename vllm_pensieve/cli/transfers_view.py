"""The tables of `pensieve bench transfers`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

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
    table = Table(
        title=f"{model['name']}: {model['kv_bytes_per_token']} bytes a token in {model['layers']} layers, "
        f"KV cache on {result['device']}",
        caption=caption,
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("pattern", no_wrap=True)
    headings = ["tokens", "blocks", "MiB"]
    for direction in ("store", "load"):
        headings += [direction, "share", *(["rows"] if by_rows else [])]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for row in result["transfers"]:
        group = (row["pattern"], row["block_tokens"])
        if before not in (None, group):
            table.add_section()
        before = group
        table.add_row(
            row["pattern"],
            str(row["block_tokens"]),
            str(row["blocks"]),
            f"{row['bytes'] / MIB:.1f}",
            *_cells(row, "store", by_rows),
            *_cells(row, "load", by_rows),
        )
    return table


def _cells(row: dict[str, Any], direction: str, by_rows: bool) -> list[str]:
    return [
        f"{row[f'{direction}_gb_s']:.1f}",
        f"{row[f'{direction}_share_of_plain']:.0%}",
        *([f"{row[f'rows_{direction}_gb_s']:.1f}"] if by_rows else []),
    ]


def _swap_ins(swap_ins: list[dict[str, Any]]) -> Table:
    table = Table(
        title="Load and compute: all layers one after the other, and by layers",
        caption="ms; hidden: share of the shorter of copy and compute that ran alongside the other",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    headings = ("tokens", "blocks", "copy", "compute", "sequential", "pipelined", "speed-up")
    for heading in (*headings, "hidden"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in swap_ins:
        table.add_row(
            str(row["block_tokens"]),
            str(row["blocks"]),
            *(
                f"{row[f'{name}_ms']:.2f}"
                for name in ("copy", "compute", "sequential", "pipelined")
            ),
            f"{row['speedup']:.2f}x",
            f"{row['overlap_percent']:.0f} %",
        )
    return table
