"""One sentence on what a trace's owner should do about the cache."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_pensieve.analysis.simulate import REFERENCE, Result
from vllm_pensieve.machine import GIB
from vllm_pensieve.trace.trace import Trace

LITTLE = 0.05
"""Of lookups: less than this in a cache without limit is hardly worth a cache."""
MOST = 0.9
"""Of what a cache without limit hits: enough for a cache to be called large enough."""
BETTER = 0.98
"""A policy whose missed blocks cost less than this share of LRU's is worth naming."""
OURS = "retention"
NAMES = {REFERENCE: "LRU", OURS: "retention value"}


def advice(trace: Trace, results: Sequence[Result], bytes_per_block: float | None) -> str:
    """What results of LRU and retention value say, at capacities up to all of the trace's unique blocks."""
    most = trace.infinite_hits / trace.accesses
    if most < LITTLE:
        return (
            f"Prompts hardly repeat: even a cache without limit would hit {most:.1%} of blocks. "
            "More memory or another policy gains little."
        )
    enough = _smallest(results, MOST * trace.infinite_hits)
    reached = (
        f"With {size(enough.capacity_blocks, bytes_per_block)}, GPU and host memory together, {NAMES[enough.policy]} "
        f"hits {enough.hits_any / trace.accesses:.1%} of blocks, out of the {most:.1%} that a cache without "
        "limit would hit; more memory gains little."
    )
    return f"{reached} {_below(results, enough.capacity_blocks, bytes_per_block)}"


def _smallest(results: Sequence[Result], hits: float) -> Result:
    """The smallest capacity at which LRU or retention value hits that many blocks."""
    enough = [r for r in results if r.policy in (REFERENCE, OURS) and r.hits_any >= hits]
    return min(enough, key=lambda result: result.capacity_blocks)


def _below(results: Sequence[Result], enough: int, bytes_per_block: float | None) -> str:
    """Where less memory than that is there: what retention value with recovery saves at best."""
    scarce = [r for r in results if r.policy == OURS and r.capacity_blocks < enough]
    best = min(scarce, key=lambda result: result.cost_vs_lru, default=None)
    if best is None or best.cost_vs_lru >= BETTER:
        return "With less memory, retention value with recovery saves little compared with LRU."
    return (
        f"With less memory, retention value with recovery saves up to {1 - best.cost_vs_lru:.0%} of what LRU must "
        f"compute (at {size(best.capacity_blocks, bytes_per_block)})."
    )


def size(blocks: int, bytes_per_block: float | None) -> str:
    """A capacity in words: blocks, and GiB where the size of a block is known."""
    text = f"{blocks:,} block{'' if blocks == 1 else 's'}"
    return text if bytes_per_block is None else f"{text} ({gib(blocks, bytes_per_block)} GiB)"


def gib(blocks: int, bytes_per_block: float) -> str:
    """GiB of that many blocks, three significant digits."""
    amount = blocks * bytes_per_block / GIB
    return f"{amount:,.0f}" if amount >= 1000 else f"{amount:.3g}"
