"""Time as the scheduler sees it: it moves on when a step is built."""

from __future__ import annotations

import time
from collections.abc import Callable


class StepClock:
    """A monotonic clock in seconds that moves only when asked to.

    Everything that happens from the building of one step to that of the next happens at one time, so that evictions of
    one step need not weigh all blocks against each other anew.

    now: where the time comes from.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._now_s = now()

    def tick(self) -> None:
        """Take over the time there is now."""
        self._now_s = self.now()

    def __call__(self) -> float:
        return self._now_s
