"""Where the time of a scheduler's step goes: clocks around functions that run a few times a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_pensieve.testing.world import World

OF_SCHEDULER = (
    "schedule",
    "update_from_output",
    "make_stats",
    "_build_kv_connector_meta",
    "_make_cached_request_data",
    "_update_after_schedule",
)
OF_MANAGER = ("get_computed_blocks", "record_prefix_cache_stats")
OF_POOL = ("get_new_blocks", "touch", "cache_full_blocks", "free_blocks")
ELSEWHERE = {
    "schedule": "elsewhere in schedule",
    "update_from_output": "elsewhere in update_from_output",
}
"""What these two spend outside all the others is what every running request passes in every step."""
FUNCTIONS = (*OF_POOL, *OF_MANAGER, *OF_SCHEDULER)


class Attribution:
    """Calls and seconds of CPU time of each of `FUNCTIONS`, without what others of them take inside it."""

    def __init__(self, world: World) -> None:
        self.calls: dict[str, int] = defaultdict(int)
        self.own_s: dict[str, float] = defaultdict(float)
        self._inner_s = [0.0]  # of the functions called by each one that is running, innermost last
        manager = world.scheduler.kv_cache_manager
        for owner, names in (
            (world.scheduler, OF_SCHEDULER),
            (manager, OF_MANAGER),
            (manager.block_pool, OF_POOL),
        ):
            for name in names:
                setattr(owner, name, self._timed(name, getattr(owner, name)))

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        clock, inner_s = time.thread_time, self._inner_s

        def timed(*args: Any, **kwargs: Any) -> Any:
            inner_s.append(0.0)
            begun = clock()
            try:
                return function(*args, **kwargs)
            finally:
                whole_s = clock() - begun
                self.calls[name] += 1
                self.own_s[name] += whole_s - inner_s.pop()
                inner_s[-1] += whole_s

        return timed
