"""Where prompt tokens came from: the plugin's counters on `/metrics`, or what each response says
was cached.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vllm_pensieve.bench.exchanges import Exchange

SOURCES = ("resident", "swapped", "recovered", "new")
LABELS = {
    "prompt_tokens": "source",
    "evictions": "to",
    "recoveries": "",
    "blocks": "state",
}
"""The plugin's metrics that are read, and the label that distinguishes their values, if they have one."""


@dataclass(frozen=True)
class Counters:
    """The plugin's metrics at one time, summed over engines.

    prompt_tokens: by source. evictions: blocks by where they went. recoveries: requests; None from a server that does
    not count them. blocks: by state, now.
    """

    prompt_tokens: dict[str, int]
    evictions: dict[str, int]
    recoveries: int | None
    blocks: dict[str, int]


def parse_counters(metrics: str) -> Counters | None:
    """Return the plugin's metrics in the text of `/metrics`; None if there are none: it is off, or has stepped back."""
    found = {name: _values(metrics, name, label) for name, label in LABELS.items()}
    if not found["prompt_tokens"]:
        return None
    return Counters(
        dict.fromkeys(SOURCES, 0) | found["prompt_tokens"],
        found["evictions"],
        found["recoveries"].get(""),
        found["blocks"],
    )


def _values(metrics: str, name: str, label: str) -> dict[str, int]:
    """Values of one metric by that label, or under an empty name."""
    values: dict[str, int] = {}
    pattern = rf"^vllm:pensieve_{name}(?:_total)?(?:\{{([^}}]*)\}})?\s+(\S+)"
    for labels, value in re.findall(pattern, metrics, re.MULTILINE):
        own = re.search(rf'(?:^|,){label}="(\w+)"', labels) if label else None
        key = own[1] if own else ""
        values[key] = values.get(key, 0) + round(float(value))
    return values


def read_counters(url: str) -> Counters | None:
    """Return the metrics of the server at `url`, or None if it has none.

    Raises httpx.HTTPError if it does not answer.
    """
    import httpx

    return parse_counters(httpx.get(f"{url}/metrics", timeout=30.0, trust_env=False).text)


def cache_numbers(
    before: Counters | None, after: Counters | None, block_gb: float | None
) -> dict[str, Any]:
    """Return what the plugin did with its memory in between, and how full it is at the end; nothing without metrics.

    block_gb: of one block; None: not known, and no usage in GB.
    """
    if after is None:
        return {}
    start = before.evictions if before else {}
    evictions = {to: count - start.get(to, 0) for to, count in after.evictions.items()}
    recoveries = after.recoveries
    if recoveries is not None and before is not None:
        recoveries -= before.recoveries or 0
    tiers = {"gpu": after.blocks.get("resident", 0), "cpu": after.blocks.get("swapped", 0)}
    usage = {f"{tier}_blocks": blocks for tier, blocks in tiers.items()}
    usage_gb = {
        f"{tier}_gb": None if block_gb is None else blocks * block_gb
        for tier, blocks in tiers.items()
    }
    return {"evictions": evictions, "recoveries": recoveries} | usage | usage_gb


def prompt_tokens_by_source(
    records: Iterable[Exchange], before: Counters | None, after: Counters | None
) -> dict[str, int]:
    """Return total prompt tokens and their sources: the counters' growth where there are counters,
    else what was cached.

    The counters' total includes requests that were broken off. Without counters nothing is swapped or recovered,
    cached tokens are resident, and the rest is new. Where the server had counters and ended before they could be
    read again, only the total is known.
    """
    done = [record for record in records if record.error is None]
    total = sum(record.prompt_tokens for record in done)
    if after is None and before is not None:
        return {"total": total}
    if after is None:
        cached = sum(record.cached_tokens for record in done)
        return {
            "total": total,
            "resident": cached,
            "swapped": 0,
            "recovered": 0,
            "new": total - cached,
        }
    start = before.prompt_tokens if before else {}
    grown = {source: after.prompt_tokens[source] - start.get(source, 0) for source in SOURCES}
    return {"total": sum(grown.values())} | grown
