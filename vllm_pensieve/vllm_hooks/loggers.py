"""How the plugin's statistics reach vLLM's log and its /metrics: through subclasses of its loggers for connectors."""

from __future__ import annotations

import sys
from typing import Any

from vllm_pensieve.config import ADDITIONAL_CONFIG_KEY
from vllm_pensieve.metrics import STATS_KEY, LogReporter, PrometheusReporter


def report_pensieve_stats() -> None:
    """Have vLLM's statistics loggers of this process read the plugin's part of the scheduler statistics. Idempotent.

    vLLM hands the statistics of KV connectors to one class for Prometheus and one for the periodic log, which expect a
    connector; they are replaced by subclasses that take our part out first. Ray's loggers have a class of their own.
    """
    from vllm.v1.metrics import loggers

    if getattr(loggers.KVConnectorProm, "reads_pensieve", False):
        return
    loggers.KVConnectorLogging = _reading_log(loggers.KVConnectorLogging)
    loggers.KVConnectorProm = _reading_prometheus(loggers.KVConnectorProm)
    loggers.PrometheusStatLogger._kv_connector_cls = loggers.KVConnectorProm
    if (ray := sys.modules.get("vllm.v1.metrics.ray_wrappers")) is not None:
        ray.RayPrometheusStatLogger._kv_connector_cls = _reading_prometheus(ray.RayKVConnectorProm)


def _reading_prometheus(stock: Any) -> Any:
    class Reading(stock):
        reads_pensieve = True
        pensieve: PrometheusReporter | None = None

        def __init__(self, vllm_config: Any, labelnames: Any, per_engine_labelvalues: Any) -> None:
            super().__init__(vllm_config, labelnames, per_engine_labelvalues)
            # At once: when another engine is made in this process, vLLM takes the metrics that are there out again.
            if ADDITIONAL_CONFIG_KEY in vllm_config.additional_config:
                self.pensieve = PrometheusReporter(
                    self._counter_cls, self._gauge_cls, labelnames, per_engine_labelvalues
                )

        def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
            rest = dict(transfer_stats_data)
            report = rest.pop(STATS_KEY, None)
            if report is not None and self.pensieve is not None:
                self.pensieve.observe(report, engine_idx)
            if rest:
                super().observe(rest, engine_idx)

    return Reading


def _reading_log(stock: Any) -> Any:
    class Reading(stock):
        def __init__(self, kv_transfer_config: Any) -> None:
            super().__init__(kv_transfer_config)
            self.pensieve = LogReporter()

        def observe(self, transfer_stats_data: dict[str, Any]) -> None:
            rest = dict(transfer_stats_data)
            if (report := rest.pop(STATS_KEY, None)) is not None:
                self.pensieve.observe(report)
            if rest:
                super().observe(rest)

        def log(self, log_fn: Any = print) -> None:
            if (line := self.pensieve.line()) is not None:
                log_fn(line)
            super().log(log_fn=log_fn)

    return Reading
