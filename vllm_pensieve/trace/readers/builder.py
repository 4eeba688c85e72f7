"""Collects requests in any order and makes the arrays of a trace from them."""

from __future__ import annotations

from array import array
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.trace.trace import Trace

TABLE_FACTOR = 16
"""Block ids that span at most so many times their count are renumbered by a table, others by sorting."""


class TraceBuilder:
    """`add` once a request, `build` at the end.

    model, recorded_on: of the trace, where a format tells them.
    """

    model: str | None = None
    recorded_on: str | None = None

    def __init__(self, default_workload: str) -> None:
        self._default_workload = default_workload
        self._blocks: list[NDArray[np.int64]] = []
        self._times_s = array("d")
        self._input_tokens = array("q")
        self._output_tokens = array("q")
        self._workload_of = array("q")
        self._session_of = array("q")
        self._workloads: dict[str, int] = {}
        self._sessions: dict[Hashable, int] = {}

    def add(
        self,
        time_s: float,
        block_ids: NDArray[np.int64],
        input_tokens: int,
        output_tokens: int,
        *,
        session: Hashable = None,
        workload: str | None = None,
    ) -> None:
        """One request; without a session it counts as one of its own."""
        workload = workload or self._default_workload
        if session is None:
            session = ("request", len(self._blocks))
        self._blocks.append(block_ids)
        self._times_s.append(time_s)
        self._input_tokens.append(input_tokens)
        self._output_tokens.append(output_tokens)
        self._workload_of.append(self._workloads.setdefault(workload, len(self._workloads)))
        self._session_of.append(self._sessions.setdefault(session, len(self._sessions)))

    def __len__(self) -> int:
        return len(self._blocks)

    def build(
        self, name: str, format_name: str, block_tokens: int | None, skipped: tuple[str, ...]
    ) -> Trace:
        """The trace, its requests ordered by time; those of one time stay in the order they came in."""
        times_s = np.array(self._times_s)
        order = np.argsort(times_s, kind="stable")
        lengths = np.array([len(blocks) for blocks in self._blocks], np.int64)
        ids = np.concatenate([self._blocks[i] for i in order])
        blocks, unique = renumber(ids)
        return Trace(
            name=name,
            format=format_name,
            blocks=blocks,
            offsets=np.concatenate(([0], np.cumsum(lengths[order]))),
            times_s=times_s[order],
            input_tokens=np.array(self._input_tokens)[order],
            output_tokens=np.array(self._output_tokens)[order],
            workload_of=np.array(self._workload_of)[order].astype(np.int32),
            workloads=tuple(self._workloads),
            session_of=np.array(self._session_of)[order].astype(np.int32),
            unique_blocks=unique,
            block_tokens=block_tokens,
            skipped=skipped,
            model=self.model,
            recorded_on=self.recorded_on,
        )


def renumber(ids: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
    """Dense numbers from 0 in the order of the ids, and how many there are."""
    if not len(ids):
        return np.zeros(0, np.int32), 0
    lowest, highest = int(ids.min()), int(ids.max())
    if highest - lowest < TABLE_FACTOR * len(ids):
        seen = np.zeros(highest - lowest + 1, np.bool_)
        seen[ids - lowest] = True
        number = np.cumsum(seen, dtype=np.int32) - np.int32(1)
        return number[ids - lowest], int(number[-1]) + 1
    unique, numbers = np.unique(ids, return_inverse=True)
    return numbers.astype(np.int32), len(unique)
