"""What the plugin counts, on vLLM's own /metrics and in its periodic log line.

The engine's scheduler counts. What was counted since the last report travels with vLLM's scheduler statistics, under a
key of its own among those of KV connectors, to the process that serves HTTP, and is added to Prometheus metrics there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STATS_KEY = "pensieve"
SOURCES = ("resident", "swapped", "recovered", "new")
REPORT_INTERVAL_S = 1.0
TOTALS = {
    "recoveries": "Requests of which a part of the prefix was computed again.",
    "failed_loads": "Blocks that could not be loaded from host memory and were computed again.",
    "checksum_failures": "Blocks whose copy in host memory had a checksum mismatch (with verify_swaps).",
    "load_wait_seconds": "Seconds that a worker's own thread waited for loads from host memory.",
    "trace_records_lost": "Records of the trace that could not be written.",
}
"""Counters without a label of their own: attributes of `PensieveStats`, and what /metrics says of them."""


@dataclass
class PensieveStats:
    """Counts since the engine started.

    prompt_tokens: prompt tokens of requests at their admission by where their KV came from: used in GPU memory, loaded
        from host memory, computed again within the kept prefix, computed for the first time. For each request the four
        add up to its prompt; later inputs of a streaming request are not counted.
    evictions: cached blocks by where they went: `host` left GPU memory and have a copy in host memory, `dropped` left
        GPU memory without one or host memory.
    copied_bytes: `store`: from GPU to host memory; `load`: back.
    recoveries, failed_loads, checksum_failures, load_wait_seconds, trace_records_lost: see `TOTALS`. A block that fails
        its checksum is a failed load as well.
    """

    prompt_tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))
    evictions: dict[str, int] = field(default_factory=lambda: {"host": 0, "dropped": 0})
    copied_bytes: dict[str, int] = field(default_factory=lambda: {"store": 0, "load": 0})
    recoveries: int = 0
    failed_loads: int = 0
    checksum_failures: int = 0
    load_wait_seconds: float = 0.0
    trace_records_lost: int = 0
    _reported: dict[str, dict[str, float]] = field(default_factory=dict, repr=False)
    _reported_at_s: float = field(default=-REPORT_INTERVAL_S, repr=False)

    def count_prompt(self, total: int, resident: int, swapped: int, recovered: int) -> None:
        """One admitted request; all in tokens."""
        self.prompt_tokens["resident"] += resident
        self.prompt_tokens["swapped"] += swapped
        self.prompt_tokens["recovered"] += recovered
        self.prompt_tokens["new"] += total - resident - swapped - recovered
        self.recoveries += recovered > 0

    def report_due(self, now_s: float, idle: bool) -> bool:
        """Whether the engine is idle, a prompt was counted since the last report, or that is longer ago than the
        interval.

        The engine asks after every step, and most steps only decode. After the last step there may be no other one for
        hours, so it always reports.
        """
        return (
            idle
            or self.prompt_tokens != self._reported.get("prompt_tokens")
            or now_s - self._reported_at_s >= REPORT_INTERVAL_S
        )

    def report(
        self,
        engine: int,
        blocks: Mapping[str, int],
        host_blocks: int,
        sessions: int,
        now_s: float,
    ) -> dict[str, Any]:
        """What was counted since the last report, and the state now, as plain values that can be sent.

        blocks: by state. host_blocks: how many blocks fit into host memory.
        """
        self._reported_at_s = now_s
        return {
            "engine": engine,
            "prompt_tokens": self._since_last_report("prompt_tokens", self.prompt_tokens),
            "evictions": self._since_last_report("evictions", self.evictions),
            "copied_bytes": self._since_last_report("copied_bytes", self.copied_bytes),
            "totals": self._since_last_report(
                "totals", {name: getattr(self, name) for name in TOTALS}
            ),
            "blocks": dict(blocks),
            "host_blocks": host_blocks,
            "sessions": sessions,
        }

    def _since_last_report(self, name: str, counts: Mapping[str, float]) -> dict[str, float]:
        before = self._reported.get(name, {})
        self._reported[name] = dict(counts)
        return {label: count - before.get(label, 0) for label, count in counts.items()}


class PrometheusReporter:
    """Adds reports to metrics, made of the counter and gauge classes that vLLM's logger uses."""

    def __init__(
        self,
        counter_class: Any,
        gauge_class: Any,
        labelnames: list[str],
        labelvalues: Mapping[int, list[object]],
    ) -> None:
        """labelnames, labelvalues: vLLM's own labels, and their values by engine index."""
        self._labelvalues = labelvalues
        self._counters = {
            "prompt_tokens": counter_class(
                name="vllm:pensieve_prompt_tokens",
                documentation="Prompt tokens of admitted requests by where their KV came from.",
                labelnames=[*labelnames, "source"],
            ),
            "evictions": counter_class(
                name="vllm:pensieve_evictions",
                documentation="Cached blocks that left GPU memory for host memory, or were dropped altogether.",
                labelnames=[*labelnames, "to"],
            ),
            "copied_bytes": counter_class(
                name="vllm:pensieve_copied_bytes",
                documentation="Bytes copied from GPU to host memory (store) and back (load).",
                labelnames=[*labelnames, "direction"],
            ),
        }
        self._totals = {
            name: counter_class(
                name=f"vllm:pensieve_{name}", documentation=documentation, labelnames=labelnames
            )
            for name, documentation in TOTALS.items()
        }
        self._host_blocks = gauge_class(
            name="vllm:pensieve_host_capacity_blocks",
            documentation="KV blocks that fit into host memory.",
            labelnames=labelnames,
            multiprocess_mode="mostrecent",
        )
        self._blocks = gauge_class(
            name="vllm:pensieve_blocks",
            documentation="KV blocks by state.",
            labelnames=[*labelnames, "state"],
            multiprocess_mode="mostrecent",
        )
        self._sessions = gauge_class(
            name="vllm:pensieve_sessions",
            documentation="Sessions remembered.",
            labelnames=labelnames,
            multiprocess_mode="mostrecent",
        )

    def observe(self, report: Mapping[str, Any], engine_index: int) -> None:
        """Record one report of one engine."""
        labels = [str(value) for value in self._labelvalues[engine_index]]
        for name, counter in self._counters.items():
            for label, count in report[name].items():
                counter.labels(*labels, label).inc(count)
        for name, total in self._totals.items():
            total.labels(*labels).inc(report["totals"][name])
        self._host_blocks.labels(*labels).set(report["host_blocks"])
        for state, blocks in report["blocks"].items():
            self._blocks.labels(*labels, state).set(blocks)
        self._sessions.labels(*labels).set(report["sessions"])


class LogReporter:
    """Turns reports, of one engine or several, into one line for vLLM's periodic log."""

    def __init__(self) -> None:
        self._tokens = dict.fromkeys(SOURCES, 0)
        self._evictions = dict.fromkeys(("host", "dropped"), 0)
        self._copied_bytes = dict.fromkeys(("store", "load"), 0)
        self._latest: dict[int, Mapping[str, Any]] = {}

    def observe(self, report: Mapping[str, Any]) -> None:
        """Record one report."""
        for name, totals in (
            ("prompt_tokens", self._tokens),
            ("evictions", self._evictions),
            ("copied_bytes", self._copied_bytes),
        ):
            for label, count in report[name].items():
                totals[label] += count
        self._latest[report["engine"]] = report

    def line(self) -> str | None:
        """What came since the last line; None when no prompt was admitted."""
        total = sum(self._tokens.values())
        if not total:
            return None
        shares = ", ".join(f"{source} {100 * n / total:.1f}%" for source, n in self._tokens.items())
        blocks = {
            state: sum(report["blocks"][state] for report in self._latest.values())
            for state in ("resident", "swapped", "free")
        }
        sessions = sum(report["sessions"] for report in self._latest.values())
        line = (
            f"Pensieve: {total} prompt tokens ({shares}); blocks: {blocks['resident']} resident, "
            f"{blocks['swapped']} swapped, {blocks['free']} free, {self._evictions['host']} went to host memory, "
            f"{self._evictions['dropped']} dropped; copied {self._copied_bytes['store'] / 1e9:.2f} GB out, "
            f"{self._copied_bytes['load'] / 1e9:.2f} GB in; {sessions} sessions"
        )
        for totals in (self._tokens, self._evictions, self._copied_bytes):
            totals.update(dict.fromkeys(totals, 0))
        return line
