"""Follows requests and blocks in the scheduler and hands finished records to the writer."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from typing_extensions import override

from vllm_pensieve.space.block_watcher import BlockWatcher, Evicted
from vllm_pensieve.space.sessions import Turn
from vllm_pensieve.trace.names import Names
from vllm_pensieve.trace.records import SCHEMA, BlockId, BlockRecord, RequestRecord
from vllm_pensieve.trace.writer import TraceWriter

KEPT_TIMES = 64
"""Use times kept of one block; of a block used more often the first and the latest."""


@dataclass
class _Request:
    arrival_s: float
    session_id: str
    turn: Turn
    queue_s: float | None = None
    ttft_s: float | None = None
    sources: tuple[int, int, int] = (0, 0, 0)  # resident, swapped, recovered


@dataclass
class _Block:
    position: int
    session_id: str
    hits: int = 0
    use_times_s: list[float] = field(default_factory=list)


class TraceRecorder(BlockWatcher):
    """Turns what happens in the scheduler into records. All times are seconds of the clock given.

    Blocks are known by their keys, from when they are first cached until there is no copy of them any more. Where there
    is a host tier, its swapper must hear of evictions before the recorder is.
    """

    def __init__(
        self,
        writer: TraceWriter,
        workload: str,
        block_tokens: int,
        names: Names,
        in_host_memory: Callable[[Hashable], bool] = lambda key: False,
        clock: Callable[[], float] = lambda: time.monotonic(),  # as it is then: it may be virtual
        model: str = "",
    ) -> None:
        """workload, model: written into every request's record.

        in_host_memory: whether a copy of a block is there, by its key.
        """
        self._writer = writer
        self._workload = names.text(workload)
        self._block_tokens = block_tokens
        self._model = model
        self._in_host_memory = in_host_memory
        self._clock = clock
        self._wall_offset_s = time.time() - clock()
        self._first_arrival_s = self._continued_from(writer.first_arrival_s)
        self._names = names
        self._requests: dict[str, _Request] = {}
        self._blocks: dict[Hashable, _Block] = {}
        self.awaiting_first_token: set[str] = set()

    def _continued_from(self, first_arrival_wall_s: float | None) -> float | None:
        """By our clock, the first arrival in a file that is continued; None in a new one."""
        if first_arrival_wall_s is None:
            return None
        first_arrival_s = first_arrival_wall_s - self._wall_offset_s
        return first_arrival_s if first_arrival_s <= self._clock() else None  # a clock was set back

    # -- requests

    def arrived(self, request_id: str, turn: Turn) -> None:
        """A request comes in."""
        now_s = self._clock()
        if self._first_arrival_s is None:
            self._first_arrival_s = now_s
        session_id = self._names.session(turn.session.session_id, turn.session.inferred)
        self._requests[request_id] = _Request(now_s, session_id, turn)

    def admitted(self, request_id: str, resident: int, swapped: int, recovered: int) -> None:
        """A request begins to run for the first time; tokens of its prompt by source."""
        request = self._requests.get(request_id)
        if request is not None:
            request.queue_s = self._clock() - request.arrival_s
            request.sources = (resident, swapped, recovered)
            self.awaiting_first_token.add(request_id)

    def first_token(self, request_id: str) -> None:
        """A request's first token was computed."""
        self.awaiting_first_token.discard(request_id)
        request = self._requests.get(request_id)
        if request is not None:
            request.ttft_s = self._clock() - request.arrival_s

    def finished(
        self,
        request_id: str,
        keys: Sequence[bytes],
        prompt_tokens: int,
        output_tokens: int,
        preemptions: int,
        finish_reason: str | None,
    ) -> None:
        """A request is over, or the recording is (finish_reason `unfinished`). keys: of its prompt's full blocks."""
        self.awaiting_first_token.discard(request_id)
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        keys = list(keys)
        e2e_s = self._clock() - request.arrival_s
        if request.ttft_s is None and output_tokens:  # its first token was its last
            request.ttft_s = e2e_s
        assert self._first_arrival_s is not None
        timestamp_ms = 1e3 * (request.arrival_s - self._first_arrival_s)

        def record() -> RequestRecord:
            resident, swapped, recovered = request.sources
            hash_ids: list[BlockId] = [self._names.block(key) for key in keys]
            if prompt_tokens > len(keys) * self._block_tokens:
                hash_ids.append(self._names.end_of(request_id))
            turn = request.turn
            return RequestRecord(
                schema=SCHEMA,
                time=self._wall_offset_s + request.arrival_s,
                monotonic_s=request.arrival_s,
                run=self._names.run,
                request_id=self._names.text(request_id),
                parent_request_id=None if turn.parent is None else self._names.text(turn.parent),
                choice=turn.choice,
                session_id=request.session_id,
                turn=turn.number,
                workload=self._workload,
                model=self._model,
                block_tokens=self._block_tokens,
                prompt_tokens=prompt_tokens,
                output_tokens=output_tokens,
                prompt_tokens_resident=resident,
                prompt_tokens_swapped=swapped,
                prompt_tokens_recovered=recovered,
                prompt_tokens_new=prompt_tokens - resident - swapped - recovered,
                reuse_fraction=(resident + swapped) / prompt_tokens if prompt_tokens else 0.0,
                queue_s=request.queue_s,
                ttft_s=request.ttft_s,
                e2e_s=e2e_s,
                preemptions=preemptions,
                finish_reason=finish_reason,
                timestamp=timestamp_ms,
                input_length=prompt_tokens,
                output_length=output_tokens,
                hash_ids=hash_ids,
            )

        self._writer.request(record)

    # -- blocks

    @override
    def hashed(
        self, request_id: str, block_ids: Sequence[int], keys: Sequence[Hashable], first: int
    ) -> None:
        request = self._requests.get(request_id)
        session_id = request.session_id if request else ""
        now_s = self._clock()
        for position, key in enumerate(keys, first):
            if key not in self._blocks:
                self._blocks[key] = _Block(
                    position * self._block_tokens, session_id, use_times_s=[now_s]
                )

    def used(self, keys: Iterable[Hashable]) -> None:
        """A request that is admitted found these blocks."""
        now_s = self._clock()
        for key in keys:
            block = self._blocks.get(key)
            if block is not None:
                block.hits += 1
                block.use_times_s.append(now_s)
                if len(block.use_times_s) > KEPT_TIMES:
                    del block.use_times_s[1]

    @override
    def evicted(self, given_out: Sequence[int], last: Evicted) -> None:
        self._left(last.keys)

    @override
    def content_lost(
        self, block_ids: Sequence[int], keys: Sequence[Hashable], positions: Sequence[int]
    ) -> None:
        self._left(keys)

    def _left(self, keys: Sequence[Hashable]) -> None:
        for key in keys:
            if not self._in_host_memory(key):
                self.dropped(key)

    @override
    def clear(self) -> None:
        self._end_all(lambda key: "dropped")

    def dropped(self, key: Hashable) -> None:
        """There is no copy of the block any more."""
        block = self._blocks.pop(key, None)
        if block is not None:
            fate_time = self._wall_offset_s + self._clock()
            self._writer.blocks((self._record_of(key, block, "dropped", fate_time),))

    def _end_all(self, fate: Callable[[Hashable], str]) -> None:
        fate_time = self._wall_offset_s + self._clock()
        self._writer.blocks(
            [
                self._record_of(key, block, fate(key), fate_time)
                for key, block in self._blocks.items()
            ]
        )
        self._blocks.clear()

    def _record_of(
        self, key: Hashable, block: _Block, fate: str, fate_time: float
    ) -> Callable[[], BlockRecord]:
        def record() -> BlockRecord:
            assert isinstance(key, bytes), type(key)
            times = block.use_times_s
            return BlockRecord(
                schema=SCHEMA,
                run=self._names.run,
                block=self._names.block(key),
                position=block.position,
                session_id=block.session_id,
                workload=self._workload,
                hits=block.hits,
                use_times=[self._wall_offset_s + t for t in times],
                reuse_gaps=[b - a for a, b in pairwise(times)],
                fate=fate,
                fate_time=fate_time,
            )

        return record

    # -- the end

    @property
    def records_lost(self) -> int:
        """Records that could not be written so far."""
        return self._writer.dropped

    @property
    def lost(self) -> str | None:
        """How many records could not be written, and why; None if all were."""
        if not self._writer.dropped:
            return None
        why = self._writer.failure or "the writer fell behind"
        return f"{self._writer.dropped} records are missing ({why})"

    def close(self, is_resident: Callable[[Hashable], bool] = lambda key: True) -> None:
        """Write what became of the blocks that are left, and everything that still waits. Idempotent."""
        self._end_all(lambda key: "alive" if is_resident(key) else "swapped")
        self._writer.close()
