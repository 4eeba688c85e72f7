"""A clock of one's own: what is expected of idle times must not depend on how busy the machine is."""

from typing import Any


class OwnClock:
    """A hundredth of a second passes with every engine step, and more when a test lets it pass."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    @classmethod
    def of(cls, scheduler: Any) -> "OwnClock":
        """Put in place of a scheduler's clock; vLLM's own scheduler has none."""
        clock = cls()
        if hasattr(scheduler, "_clock"):
            scheduler._clock.now = clock
            scheduler._clock.tick()
        return clock

    def __call__(self) -> float:
        self.now_s += 0.01
        return self.now_s

    def let_pass(self, seconds: float) -> None:
        self.now_s += seconds
