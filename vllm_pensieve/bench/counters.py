"""Where prompt tokens came from: the plugin's counters on `/metrics`, or what each response says
was cached.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vllm_pensieve.bench.records import RequestRecord

SOURCES = ("resident", "swapped", "recovered", "new")
COUNTER = re.compile(
    r'^vllm:pensieve_prompt_tokens_total\{(?:[^}]*,)?source="(\w+)"[^}]*\}\s+(\S+)', re.MULTILINE
)


def parse_prompt_tokens(metrics: str) -> dict[str, int] | None:
    """Return the plugin's prompt token counters by source, summed over engines; None if there are
    none.
    """
    totals = dict.fromkeys(SOURCES, 0)
    found = COUNTER.findall(metrics)
    for source, value in found:
        totals[source] = totals.get(source, 0) + round(float(value))
    return totals if found else None


def read_prompt_tokens(url: str) -> dict[str, int] | None:
    """Return the counters of the server at `url`, or None if it has none.

    Raises httpx.HTTPError if it does not answer.
    """
    import httpx

    return parse_prompt_tokens(httpx.get(f"{url}/metrics", timeout=30.0, trust_env=False).text)


def prompt_tokens_by_source(
    records: Iterable[RequestRecord], before: dict[str, int] | None, after: dict[str, int] | None
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
    start = before or {}
    grown = {source: after[source] - start.get(source, 0) for source in SOURCES}
    return {"total": sum(grown.values())} | grown
