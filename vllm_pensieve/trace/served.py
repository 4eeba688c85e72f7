"""What the server measured of each request: where its prompt came from, and how long its first token took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.trace.records import RequestRecord

SOURCES = ("resident", "swapped", "recovered", "new")


class Measured(NamedTuple):
    """Of one request; None for what its line does not say. tokens: of the prompt, by `SOURCES`."""

    reuse_fraction: float | None
    tokens: tuple[int, ...] | None
    ttft_s: float | None

    @classmethod
    def of(cls, record: RequestRecord) -> Measured:
        """What a line says."""
        tokens = tuple(
            count
            for source in SOURCES
            if (count := getattr(record, f"prompt_tokens_{source}")) is not None
        )
        return cls(
            record.reuse_fraction, tokens if len(tokens) == len(SOURCES) else None, record.ttft_s
        )


@dataclass(frozen=True)
class Served:
    """One row a request, in the order of the trace.

    tokens: [requests, sources], of the prompt, by `SOURCES`. ttft_s: [requests], NaN where there was no first token.
    """

    tokens: NDArray[np.int64]
    ttft_s: NDArray[np.float64]

    @property
    def has_ttft(self) -> bool:
        return not np.isnan(self.ttft_s).all()

    def shares(self) -> dict[str, float]:
        """Of all prompt tokens, by source."""
        totals = self.tokens.sum(axis=0)
        return dict(zip(SOURCES, (totals / max(1, totals.sum())).tolist(), strict=True))


def served(requests: Sequence[Measured | None]) -> Served | None:
    """None unless the sources of every request are known."""
    known = [own for own in requests if own is not None]
    tokens = [own.tokens for own in known if own.tokens is not None]
    if not tokens or len(tokens) < len(requests):
        return None
    ttft = [np.nan if own.ttft_s is None else own.ttft_s for own in known]
    return Served(np.array(tokens, np.int64), np.array(ttft))


def reuse_fractions(requests: Sequence[Measured | None]) -> NDArray[np.float64] | None:
    """[requests]; None unless every one is known."""
    values = [own.reuse_fraction for own in requests if own is not None]
    known = [value for value in values if value is not None]
    return np.array(known, np.float64) if known and len(known) == len(requests) else None
