"""What a world's scheduler tells the front end: statistics, and how each request was prefilled."""

from collections import Counter
from typing import Any

from vllm.v1.engine import EngineCoreOutput

from vllm_pensieve.testing.world import World


class Collected:
    """Everything from now on; nothing of it is changed.

    local, external: vLLM's counts of lookups in GPU memory and outside it: requests, queries and hits.
    by_source: external hits by tier. prefills: how each request's prompt was prefilled, by request id.
    reports: the plugin's.
    """

    def __init__(self, world: World) -> None:
        self.local: Counter[str] = Counter()
        self.external: Counter[str] = Counter()
        self.by_source: Counter[str] = Counter()
        self.prefills: dict[str, Any] = {}
        self.reports: list[dict[str, Any]] = []
        self.outputs: list[EngineCoreOutput] = []
        update = world.scheduler.update_from_output

        def collected(*args: Any, **kwargs: Any) -> Any:
            by_client = update(*args, **kwargs)
            for outputs in by_client.values():
                self._note(outputs)
            return by_client

        world.scheduler.update_from_output = collected

    def _note(self, outputs: Any) -> None:
        self.outputs += outputs.outputs
        for output in outputs.outputs:
            if output.prefill_stats is not None:
                assert output.request_id not in self.prefills, "told twice"
                self.prefills[output.request_id] = output.prefill_stats
        stats = outputs.scheduler_stats
        if stats is None:
            return
        for counts, of_step in (
            (self.local, stats.prefix_cache_stats),
            (self.external, stats.connector_prefix_cache_stats),
        ):
            if of_step is None:
                continue
            for name in ("requests", "queries", "hits", "preempted_queries", "preempted_hits"):
                counts[name] += getattr(of_step, name)
                assert getattr(of_step, name) >= 0
            assert of_step.hits <= of_step.queries
            assert of_step.preempted_hits <= of_step.preempted_queries
            if of_step is stats.connector_prefix_cache_stats:
                self.by_source.update({s.value: n for s, n in of_step.hits_by_source.items()})
        if stats.kv_connector_stats and "pensieve" in stats.kv_connector_stats:
            self.reports.append(stats.kv_connector_stats["pensieve"])

    def total(self, field: str) -> int:
        """Of all prefills."""
        return sum(getattr(prefill, field) for prefill in self.prefills.values())
