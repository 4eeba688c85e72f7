"""A pytest plugin for vLLM's tests: with CONFORMANCE_SCHEDULERS=pensieve they find our schedulers instead of vLLM's."""

from __future__ import annotations

import os
from typing import Any

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No engine starts here, so there is nothing to clean up after each test, which would take most of the time."""
    for item in items:
        item.add_marker("skip_global_cleanup")


def put_ours_in_place() -> None:
    """Before any test module is imported, which binds the names."""
    import vllm.v1.core.sched.async_scheduler as async_scheduler
    import vllm.v1.core.sched.scheduler as scheduler

    from vllm_pensieve.scheduler import AsyncPensieveScheduler, PensieveMixin, PensieveScheduler

    stock_mark = scheduler.Scheduler._mark_prefix_replay
    our_mark = PensieveMixin._mark_prefix_replay

    def mark_prefix_replay(self: Any, *args: Any, **kwargs: Any) -> int:
        """Eight tests bind this method to a plain namespace, on which `super()` cannot work: stock's for them."""
        mark = our_mark if isinstance(self, PensieveMixin) else stock_mark
        return mark(self, *args, **kwargs)

    PensieveMixin._mark_prefix_replay = mark_prefix_replay  # type: ignore[method-assign]
    scheduler.Scheduler = PensieveScheduler
    async_scheduler.AsyncScheduler = AsyncPensieveScheduler


if os.environ["CONFORMANCE_SCHEDULERS"] == "pensieve":
    put_ours_in_place()
