"""How much prompts repeat: reuse by request, hits and reuse gaps by block."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.analysis.simulate import SCHEMA, describe_trace
from vllm_pensieve.trace.readers import find_trace, read_blocks, read_trace_and_ids
from vllm_pensieve.trace.trace import Trace

MEASURED = "measured"
REPLAYED = "replayed in a cache without limit"
INCOMPLETE = REPLAYED + ", since %d blocks have no line, as after a kill"


@dataclass(frozen=True)
class PrefixStats:
    """What is summarised and drawn.

    reuse_fraction: [requests], share of a prompt's tokens that was in the cache, in the order of the trace.
    block_hits: [blocks], uses after the first. reuse_gaps_s: [uses after the first].
    reuse_source, block_source: whether the server measured it or it follows from the requests alone.
    skipped: bad lines of both files.
    """

    trace: Trace
    reuse_fraction: NDArray[np.float64]
    block_hits: NDArray[np.int64]
    reuse_gaps_s: NDArray[np.float64]
    reuse_source: str
    block_source: str
    skipped: tuple[str, ...]

    @property
    def label(self) -> str:
        """The trace's short name, as in figures' file names."""
        return trace_label(Path(self.trace.name))

    @property
    def workload_label(self) -> str:
        """The same without the size of blocks: traces of one workload share it."""
        return workload_label(Path(self.trace.name))

    @property
    def size_title(self) -> str:
        """The size of blocks in words."""
        tokens = self.trace.block_tokens
        return f"blocks of {tokens} tokens" if tokens else "blocks of unknown size"

    @property
    def title(self) -> str:
        """Workload and size of blocks in words."""
        return f"{self.workload_label}, {self.size_title}"


def trace_label(path: Path) -> str:
    """`chat_multi_b32` for `prefix_chat_multi_b32_requests.jsonl`, `multi` for `prefix_metrics_sharegpt_multi_...`."""
    name = path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix("_requests")
    for beginning in ("prefix_metrics_sharegpt_", "prefix_metrics_", "prefix_"):
        if len(name) > len(beginning) and name.startswith(beginning):
            return name.removeprefix(beginning)
    return name


def workload_label(path: Path) -> str:
    """`chat_multi` for `prefix_chat_multi_b32_requests.jsonl`."""
    return re.sub(r"(?<=.)_b\d+$", "", trace_label(path))


def read_prefix_stats(
    prefix: Path,
    format_name: str = "auto",
    strict: bool = False,
    block_tokens: int | None = None,
) -> PrefixStats:
    """Read a trace and, if it is there, the file of blocks next to it.

    What the server did not record follows from the requests, as if its cache had no limit.

    Raises:
        TraceError: as `read_trace`, for either file.
    """
    path = find_trace(prefix)
    trace, computed = read_trace_and_ids(path, format_name, strict, block_tokens)
    blocks = read_blocks(path, strict)
    skipped = trace.skipped
    block_source = REPLAYED
    if blocks is not None:
        records, bad = blocks
        skipped = (*skipped, *bad)
        missing = len(np.setdiff1d(computed, [record.block for record in records]))
        block_source = INCOMPLETE % missing if missing else MEASURED
    if block_source == MEASURED:
        block_hits = np.array([record.hits for record in records], np.int64)
        gaps = np.array([gap for record in records for gap in record.reuse_gaps], np.float64)
    else:
        block_hits, gaps = replayed_blocks(trace)
    measured = trace.reuse_fraction
    return PrefixStats(
        trace,
        replayed_reuse(trace) if measured is None else measured,
        block_hits,
        gaps,
        REPLAYED if measured is None else MEASURED,
        block_source,
        skipped,
    )


def replayed_reuse(trace: Trace) -> NDArray[np.float64]:
    """[requests], share of each prompt's blocks that earlier requests had."""
    first = np.zeros(trace.accesses, np.bool_)
    first[np.unique(trace.blocks, return_index=True)[1]] = True
    lengths = np.diff(trace.offsets)
    known = np.concatenate(([0], np.cumsum(~first)))
    return (known[trace.offsets[1:]] - known[trace.offsets[:-1]]) / np.maximum(lengths, 1)


def replayed_blocks(trace: Trace) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Uses of each block after its first, and the seconds between its uses."""
    order = np.argsort(trace.blocks, kind="stable")
    times_s = np.repeat(trace.times_s, np.diff(trace.offsets))[order]
    same = np.diff(trace.blocks[order]) == 0
    hits = np.bincount(trace.blocks, minlength=trace.unique_blocks) - 1
    return hits.astype(np.int64), np.diff(times_s)[same]


def summarize(stats: PrefixStats) -> dict[str, Any]:
    """What `pensieve trace summarize` shows and writes; rates and shares from 0 to 1, gaps in seconds."""
    trace = stats.trace
    return {
        "schema": SCHEMA,
        "trace": describe_trace(trace) | {"skipped_lines": len(stats.skipped)},
        "reuse_fraction": spread(stats.reuse_fraction)
        | {"share_above_0": _share(stats.reuse_fraction > 0), "source": stats.reuse_source},
        "block_hits": spread(stats.block_hits)
        | {"share_above_0": _share(stats.block_hits > 0), "source": stats.block_source},
        "reuse_gap_s": spread(stats.reuse_gaps_s) | {"source": stats.block_source},
        "infinite_hit_rate": trace.infinite_hits / trace.accesses,
    }


def spread(values: NDArray[Any]) -> dict[str, float | None]:
    """Count, mean, median, p90 and p99; None where there are no values."""
    if not len(values):
        return {"count": 0, "mean": None, "median": None, "p90": None, "p99": None}
    median, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "median": median,
        "p90": p90,
        "p99": p99,
    }


def _share(chosen: NDArray[np.bool_]) -> float | None:
    return float(chosen.mean()) if len(chosen) else None
