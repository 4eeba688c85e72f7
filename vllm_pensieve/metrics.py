"""What the plugin counts, on vLLM's own /metrics and in its periodic log line.

The engine's scheduler counts; the counts travel with vLLM's scheduler statistics, under a key of their own among those
of KV connectors, to the process that serves HTTP; there they become Prometheus metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm.v1.core.block_pool import BlockPool

STATS_KEY = "pensieve"
SOURCES = ("resident", "swapped", "recovered", "new")


@dataclass
class PensieveStats:
    """Counts since the engine started.

    prompt_tokens: prompt tokens of admitted requests by where their KV came from: used in GPU memory, loaded from host
        memory, computed again within the kept prefix, computed for the first time. They add up to the prompts.
    """

    prompt_tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))

    def count_prompt(self, total: int, resident: int, recovered: int) -> None:
        """One admitted request; all in tokens."""
        self.prompt_tokens["resident"] += resident
        self.prompt_tokens["recovered"] += recovered
        self.prompt_tokens["new"] += total - resident - recovered

    def snapshot(self, pool: BlockPool, sessions: int) -> dict[str, Any]:
        """Plain, serialisable values; `pool` is our block pool, or vLLM's when the plugin had to fall back."""
        free = pool.get_num_free_blocks()
        order = getattr(pool.free_block_queue, "order", None)
        cached = 0 if order is None else len(order)
        return {
            "prompt_tokens": dict(self.prompt_tokens),
            "evictions": {"dropped": getattr(pool.free_block_queue, "evicted_blocks", 0)},
            "blocks": {"resident": pool.num_gpu_blocks - 1 - free + cached, "free": free - cached},
            "sessions": sessions,
        }


class PrometheusReporter:
    """Turns snapshots into metrics. Counters grow by what a snapshot adds to the one before it."""

    def __init__(self, labelnames: list[str], labelvalues: Mapping[int, list[object]]) -> None:
        from prometheus_client import Counter, Gauge

        self._labelvalues = labelvalues
        self._counted: dict[tuple[int, str, str], float] = {}
        self._counters = {
            "prompt_tokens": Counter(
                "vllm:pensieve_prompt_tokens",
                "Prompt tokens of admitted requests by where their KV came from.",
                [*labelnames, "source"],
            ),
            "evictions": Counter(
                "vllm:pensieve_evictions",
                "Cached blocks evicted from GPU memory.",
                [*labelnames, "to"],
            ),
        }
        self._blocks = Gauge("vllm:pensieve_blocks", "KV blocks by state.", [*labelnames, "state"])
        self._sessions = Gauge("vllm:pensieve_sessions", "Sessions remembered.", labelnames)

    def observe(self, snapshot: Mapping[str, Any], engine_index: int) -> None:
        """Record one snapshot of one engine."""
        labels = [str(value) for value in self._labelvalues[engine_index]]
        for name, counter in self._counters.items():
            for label, total in snapshot[name].items():
                key = (engine_index, name, label)
                counter.labels(*labels, label).inc(total - self._counted.get(key, 0))
                self._counted[key] = total
        for state, blocks in snapshot["blocks"].items():
            self._blocks.labels(*labels, state).set(blocks)
        self._sessions.labels(*labels).set(snapshot["sessions"])


class LogReporter:
    """Turns snapshots into one line for vLLM's periodic log: shares since the line before."""

    def __init__(self) -> None:
        self._latest: Mapping[str, Any] | None = None
        self._logged: dict[str, int] = dict.fromkeys(SOURCES, 0)
        self._logged_evictions = 0

    def observe(self, snapshot: Mapping[str, Any]) -> None:
        """Record one snapshot."""
        self._latest = snapshot

    def line(self) -> str | None:
        """The line, or None when no prompt was admitted since the last one."""
        if self._latest is None:
            return None
        tokens = {
            source: n - self._logged[source] for source, n in self._latest["prompt_tokens"].items()
        }
        total = sum(tokens.values())
        if not total:
            return None
        evictions = self._latest["evictions"]["dropped"] - self._logged_evictions
        self._logged = dict(self._latest["prompt_tokens"])
        self._logged_evictions += evictions
        shares = ", ".join(f"{source} {100 * n / total:.1f}%" for source, n in tokens.items())
        blocks = self._latest["blocks"]
        return (
            f"Pensieve: {total} prompt tokens ({shares}), {evictions} blocks evicted, "
            f"{blocks['resident']} resident and {blocks['free']} free, {self._latest['sessions']} sessions"
        )
