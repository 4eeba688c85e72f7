"""What the server measured of each request: where its prompt came from, and how long its first token took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.trace.readers.pensieve import Runs
from vllm_pensieve.trace.readers.records import PensieveRecord

SOURCES = ("resident", "swapped", "recovered", "new")


@dataclass(frozen=True)
class Served:
    """One row a request.

    time_s: [requests], of the arrival, since the run of the first line began. tokens: [requests, sources], of the
    prompt, by `SOURCES`. ttft_s: [requests], NaN where there was no first token.
    """

    time_s: NDArray[np.float64]
    tokens: NDArray[np.int64]
    ttft_s: NDArray[np.float64]

    @property
    def has_ttft(self) -> bool:
        return not np.isnan(self.ttft_s).all()

    def shares(self) -> dict[str, float]:
        """Of all prompt tokens, by source."""
        totals = self.tokens.sum(axis=0)
        return dict(zip(SOURCES, (totals / max(1, totals.sum())).tolist(), strict=True))


def served(records: Sequence[PensieveRecord]) -> Served | None:
    """None unless every record has all sources."""
    runs = Runs()
    times = [runs.of(record)[1] + record.timestamp / 1000 for record in records]
    tokens = [
        [getattr(record, f"prompt_tokens_{source}") for source in SOURCES] for record in records
    ]
    if not records or any(count is None for own in tokens for count in own):
        return None
    ttft = [np.nan if record.ttft_s is None else record.ttft_s for record in records]
    return Served(np.array(times), np.array(tokens, np.int64), np.array(ttft))
