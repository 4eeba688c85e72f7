"""vLLM's scheduler hooks. Use `vllm_pensieve.scheduler.make_scheduler` as vLLM's scheduler_cls."""

from vllm_pensieve.scheduler.scheduler import (
    AsyncPensieveScheduler,
    PensieveMixin,
    PensieveScheduler,
    make_scheduler,
)

__all__ = ["AsyncPensieveScheduler", "PensieveMixin", "PensieveScheduler", "make_scheduler"]
