"""Traces in vLLM's scheduler: when a recorder begins, hears of first tokens, and ends."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Hashable
from pathlib import PurePath
from typing import Any

from typing_extensions import override
from vllm.logger import init_logger
from vllm.v1.core.sched.scheduler import Scheduler

from vllm_pensieve.config import PensieveConfig
from vllm_pensieve.trace.recorder import TraceRecorder
from vllm_pensieve.trace.writer import TraceWriter

logger = init_logger("vllm.pensieve")


class TracingMixin(Scheduler):
    """Owns the trace's recorder. Does nothing while nothing is recorded."""

    _recorder: TraceRecorder | None = None

    def _start_trace(
        self, config: PensieveConfig, block_size: int, in_host_memory: Callable[[Hashable], bool]
    ) -> TraceRecorder:
        engine = self.parallel_config.data_parallel_rank
        prefix = f"{config.trace_prefix}_engine{engine}" if engine else config.trace_prefix
        writer = TraceWriter(prefix, int(config.trace_max_mb * 1e6))
        model = PurePath(self.vllm_config.model_config.served_model_name).name
        self._recorder = TraceRecorder(
            writer, config.trace_workload, block_size, in_host_memory, model=model
        )
        atexit.register(self._end_trace)
        return self._recorder

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

    def _end_trace(self) -> None:
        if self._recorder is not None:
            cached = self.kv_cache_manager.block_pool.cached_block_hash_to_block
            self._recorder.close(lambda key: cached.get_one_block(key) is not None)
            if self._recorder.lost:
                logger.warning("Pensieve: the trace is not complete: %s", self._recorder.lost)
            atexit.unregister(self._end_trace)
            self._recorder = None

    @override
    def shutdown(self) -> None:
        self._end_trace()
        super().shutdown()
