"""Traces in vLLM's scheduler: when a recorder begins, hears of first tokens, and ends."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Hashable
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from typing_extensions import override
from vllm.logger import init_logger
from vllm.v1.core.sched.scheduler import Scheduler

from vllm_pensieve.config import PLAIN, PensieveConfig
from vllm_pensieve.metrics import PensieveStats
from vllm_pensieve.trace.files import engine_prefix
from vllm_pensieve.trace.names import Names
from vllm_pensieve.trace.recorder import TraceRecorder
from vllm_pensieve.trace.writer import TraceWriter
from vllm_pensieve.vllm_hooks.stopping import end_traces_in_time

if TYPE_CHECKING:
    from vllm.v1.request import Request

logger = init_logger("vllm.pensieve")

UNFINISHED = "unfinished"
"""The finish reason of a request that was under way when the recording ended."""


class TracingMixin(Scheduler):
    """Owns the trace's recorder. Does nothing while nothing is recorded."""

    _recorder: TraceRecorder | None = None
    pensieve_stats: PensieveStats

    def _start_trace(
        self, config: PensieveConfig, block_size: int, in_host_memory: Callable[[Hashable], bool]
    ) -> TraceRecorder:
        engine = self.parallel_config.data_parallel_index  # of dense models the ranks are all 0
        prefix = engine_prefix(config.trace_prefix, engine)
        writer = TraceWriter(prefix, int(config.trace_max_mb * 1e6))
        names = Names(plain_session_ids=config.trace_session_ids == PLAIN)
        model = PurePath(self.vllm_config.model_config.served_model_name).name
        self._recorder = TraceRecorder(
            writer, config.trace_workload, block_size, names, in_host_memory, model=model
        )
        end_traces_in_time()
        atexit.register(self.end_trace)
        return self._recorder

    def _count_lost_records(self) -> None:
        if self._recorder is not None:
            self.pensieve_stats.trace_records_lost = self._recorder.records_lost

    @property
    def traces(self) -> bool:
        """Whether a trace is being recorded."""
        return self._recorder is not None

    def _dropped_from_host(self, key: Hashable) -> None:
        if self._recorder is not None:
            self._recorder.dropped(key)

    @override
    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().update_from_output(*args, **kwargs)
        if self._recorder is not None and self._recorder.awaiting_first_token:
            self._note_first_tokens(self._recorder)
        return outputs

    def _note_first_tokens(self, recorder: TraceRecorder) -> None:
        for request_id in list(recorder.awaiting_first_token):
            request = self.requests.get(request_id)
            if request is not None and request.num_output_tokens:
                recorder.first_token(request_id)

    def _record(self, request: Request, finish_reason: str | None) -> None:
        if self._recorder is not None:
            self._recorder.finished(
                request.request_id,
                self.kv_cache_manager.prompt_keys(request),
                request.num_prompt_tokens,
                request.num_output_tokens,
                request.num_preemptions,
                finish_reason,
            )

    def end_trace(self) -> None:
        """Write what is left: requests under way, blocks that are there. Idempotent, and never raises."""
        if self._recorder is None:
            return
        try:
            for request in list(self.requests.values()):
                self._record(request, UNFINISHED)
            cached = self.kv_cache_manager.block_pool.cached_block_hash_to_block
            self._recorder.close(lambda key: cached.get_one_block(key) is not None)
            if self._recorder.lost:
                logger.warning("Pensieve: the trace is not complete: %s", self._recorder.lost)
        except Exception:  # whatever state a failed step left; the engine is to end all the same
            logger.exception("Pensieve: the end of the trace could not be written")
        atexit.unregister(self.end_trace)
        self._recorder = None

    @override
    def shutdown(self) -> None:
        self.end_trace()
        super().shutdown()
