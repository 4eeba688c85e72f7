"""A device that keeps in every KV slot the hash of the token prefix it was computed from.

A step first writes all its rows' slots, then reads every slot below each row's end through the row's block table. A
slot that holds another prefix, a slot with two writers, a null block: each is a fault. The next token of a row is a
function of the hash of its last token, so `FakeDevice.answer` knows every request's output in advance.

What a worker knows about a request comes only from the scheduler's outputs. `V1Bookkeeping` follows vLLM's V1 runner,
`V2Bookkeeping` is the V2 runner's own state classes and methods on CPU tensors.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol
from unittest.mock import patch

import numpy as np
import torch
import vllm.v1.worker.gpu.block_table as v2_block_table
import vllm.v1.worker.gpu.buffer_utils as v2_buffers
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.gpu.model_runner import GPUModelRunner
from vllm.v1.worker.gpu.states import RequestState

MODULUS = (1 << 61) - 1
UNWRITTEN, WRONG_TOKEN = -1, 50_001
VOCABULARY = 50_000


def extend_hash(prefix_hash: int, token: int) -> int:
    return (prefix_hash * 1_000_003 + token * 7_919 + 12_345) % MODULUS


def sample(prefix_hash: int) -> int:
    return prefix_hash % 997 + 1


class Row(NamedTuple):
    """One request's part of a step, as the worker sees it."""

    request_id: str
    start: int
    scheduled: int
    tokens: list[int]  # all that the worker has
    blocks: list[int]
    samples: bool

    @property
    def end(self) -> int:
        return self.start + self.scheduled


class Bookkeeping(Protocol):
    def update(self, output: SchedulerOutput) -> None: ...

    def rows(self, output: SchedulerOutput) -> Iterator[Row]: ...

    def computed(self, row: Row, token: int | None) -> None: ...


@dataclass
class _V1State:
    tokens: list[int]
    blocks: list[int]
    position: int


class V1Bookkeeping:
    """The scheduler's position is taken over in every step; block ids are appended, or replaced on resumption."""

    def __init__(self, block_tokens: int, max_requests: int, max_tokens: int) -> None:
        self.states: dict[str, _V1State] = {}

    def update(self, output: SchedulerOutput) -> None:
        for request_id in output.finished_req_ids:
            self.states.pop(request_id, None)
        for new in output.scheduled_new_reqs:
            self.states[new.req_id] = _V1State(
                list(new.prompt_token_ids), list(new.block_ids[0]), new.num_computed_tokens
            )
        cached = output.scheduled_cached_reqs
        for request_id, position, blocks in zip(
            cached.req_ids, cached.num_computed_tokens, cached.new_block_ids, strict=True
        ):
            state = self.states[request_id]
            state.position = position
            if request_id in cached.resumed_req_ids:
                state.tokens = list(cached.all_token_ids[request_id])
                state.blocks = list(blocks[0])
            elif blocks is not None:
                state.blocks.extend(blocks[0])

    def rows(self, output: SchedulerOutput) -> Iterator[Row]:
        for request_id, scheduled in output.num_scheduled_tokens.items():
            s = self.states[request_id]
            yield Row(
                request_id,
                s.position,
                scheduled,
                s.tokens,
                s.blocks,
                s.position + scheduled == len(s.tokens),
            )

    def computed(self, row: Row, token: int | None) -> None:
        if token is not None:
            self.states[row.request_id].tokens.append(token)


class V2Bookkeeping:
    """The position lives on the device and only counts up; nothing but a new request sets it."""

    finish_requests = GPUModelRunner.finish_requests
    add_requests = GPUModelRunner.add_requests
    update_requests = GPUModelRunner.update_requests
    _remove_request = GPUModelRunner._remove_request

    def __init__(self, block_tokens: int, max_requests: int, max_tokens: int) -> None:
        cpu = torch.device("cpu")
        self.req_states = RequestState(max_requests, max_tokens, 8192, 0, VOCABULARY, cpu)
        self.block_tables = v2_block_table.BlockTables(
            [block_tokens], max_requests, 8192, [max_tokens // block_tokens + 1], cpu
        )
        ignore = SimpleNamespace(
            add_request=lambda *_: None,
            remove_request=lambda *_: None,
            apply_staged_writes=lambda: None,
        )
        self.model_state = self.lora_state = ignore
        self.pooling_runner = self.pp_handler = self.encoder_cache = self.prompt_logprobs_worker = (
            None
        )
        self.adaptive_verification = self.sampler = self.kv_block_zeroer = None
        self.is_last_pp_rank = False

    def update(self, output: SchedulerOutput) -> None:
        new = [n.req_id for n in output.scheduled_new_reqs]
        assert len(set(new)) == len(new), "sent twice as new"
        assert not set(new) & set(output.scheduled_cached_reqs.req_ids), "sent as new and as cached"
        self.finish_requests(output)
        self.add_requests(output)
        self.update_requests(output)
        self.block_tables.apply_staged_writes()

    def rows(self, output: SchedulerOutput) -> Iterator[Row]:
        states = self.req_states
        for request_id, scheduled in output.num_scheduled_tokens.items():
            i = states.req_id_to_index[request_id]
            position = int(states.num_computed_tokens.gpu[i])
            tokens = states.all_token_ids.gpu[i, : int(states.total_len.gpu[i])].tolist()
            blocks = (
                self.block_tables.block_tables[0]
                .gpu[i, : int(self.block_tables.num_blocks.np[0, i])]
                .tolist()
            )
            samples = position + scheduled >= int(states.prefill_len.np[i])
            yield Row(request_id, position, scheduled, tokens, blocks, samples)

    def computed(self, row: Row, token: int | None) -> None:
        states = self.req_states
        i = states.req_id_to_index[row.request_id]
        states.num_computed_tokens.gpu[i] += row.scheduled
        if token is not None:
            end = int(states.total_len.gpu[i])
            states.all_token_ids.gpu[i, end] = token
            states.total_len.gpu[i] = end + 1


class _StagedWritesOnCpu:
    """What the V2 runner's only Triton kernel on this path does, for one tensor."""

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def launch(
            out: torch.Tensor,
            stride: int,
            rows: torch.Tensor,
            starts: torch.Tensor,
            contents: torch.Tensor,
            cumulative_lengths: torch.Tensor,
            *args: Any,
            **constants: Any,
        ) -> None:
            begin = 0
            for i in range(grid[0]):
                end = int(cumulative_lengths[i])
                row, start = int(rows[i]), int(starts[i])
                if out.dim() == 1:
                    out[row + start : row + start + end - begin] = contents[begin:end]
                else:
                    out[row, start : start + end - begin] = contents[begin:end]
                begin = end

        return launch


@contextmanager
def v2_state_on_cpu() -> Iterator[None]:
    """Meanwhile vLLM's V2 runner keeps its state in CPU tensors, as `V2Bookkeeping` needs it."""
    with (
        patch.object(v2_buffers, "_apply_write_kernel", _StagedWritesOnCpu()),
        patch.object(v2_buffers, "is_uva_available", lambda: False),
    ):
        yield


class FakeDevice:
    def __init__(self, bookkeeping: Bookkeeping, num_blocks: int, block_tokens: int) -> None:
        self.bookkeeping = bookkeeping
        self.block_tokens = block_tokens
        self.slots = np.full(num_blocks * block_tokens, UNWRITTEN, dtype=np.int64)
        self.faults: list[str] = []
        self.rows_computed = 0
        self.jumps = 0  # a row that does not start where the request's row before it ended
        self._ends: dict[str, int] = {}
        self._hashes: dict[
            str, tuple[list[int], list[int]]
        ] = {}  # of the tokens seen last, per request

    @staticmethod
    def hashes(tokens: list[int], known: list[int] = ()) -> list[int]:  # type: ignore[assignment]
        out = list(known)
        last = out[-1] if out else 17
        for token in tokens[len(out) :]:
            last = extend_hash(last, token)
            out.append(last)
        return out

    @classmethod
    def answer(cls, prompt: list[int], num_tokens: int) -> list[int]:
        """What a request with this prompt must produce."""
        last, out = cls.hashes(prompt)[-1], []
        for _ in range(num_tokens):
            out.append(sample(last))
            last = extend_hash(last, out[-1])
        return out

    def contents(self, block: int) -> np.ndarray:
        """The slots of a block, to be read or written."""
        return self.slots[block * self.block_tokens : (block + 1) * self.block_tokens]

    def poison(self, blocks: list[int]) -> None:
        for block in blocks:
            self.contents(block)[:] = UNWRITTEN

    def run(self, output: SchedulerOutput) -> tuple[list[Row], ModelRunnerOutput]:
        self.bookkeeping.update(output)
        for request_id in (*output.finished_req_ids, *(output.preempted_req_ids or ())):
            self._ends.pop(request_id, None)
            self._hashes.pop(request_id, None)
        rows = list(self.bookkeeping.rows(output))
        want = [self._prefix_hashes(row) for row in rows]
        slots = [self._slots_of(row) for row in rows]
        writers: dict[int, str] = {}
        for row, hashes, where in zip(rows, want, slots, strict=True):
            self.slots[where[row.start :]] = hashes[row.start :]
            for slot in where[row.start :].tolist():
                if writers.setdefault(slot, row.request_id) != row.request_id:
                    self.faults.append(f"{row.request_id} and {writers[slot]} write slot {slot}")
        tokens = [
            self._read(row, hashes, where)
            for row, hashes, where in zip(rows, want, slots, strict=True)
        ]
        return rows, ModelRunnerOutput(
            req_ids=[row.request_id for row in rows],
            req_id_to_index={row.request_id: i for i, row in enumerate(rows)},
            sampled_token_ids=[[] if token is None else [token] for token in tokens],
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )

    def _prefix_hashes(self, row: Row) -> np.ndarray:
        tokens, hashes = self._hashes.get(row.request_id, ([], []))
        if row.tokens[: len(tokens)] != tokens:
            hashes = []
        hashes = self.hashes(row.tokens, hashes)
        self._hashes[row.request_id] = (list(row.tokens), hashes)
        if row.end > len(row.tokens):
            self.faults.append(
                f"{row.request_id} computes up to {row.end} and has {len(row.tokens)} tokens"
            )
            hashes = hashes + [UNWRITTEN] * (row.end - len(row.tokens))
        return np.array(hashes[: row.end])

    def _slots_of(self, row: Row) -> np.ndarray:
        positions = np.arange(row.end)
        needed = -(-row.end // self.block_tokens)
        if needed > len(row.blocks) or 0 in row.blocks[:needed]:
            self.faults.append(
                f"{row.request_id} has no block for some of its {row.end} tokens: {row.blocks}"
            )
        blocks = np.array([*row.blocks, *[0] * needed])
        return (
            blocks[positions // self.block_tokens] * self.block_tokens
            + positions % self.block_tokens
        )

    def _read(self, row: Row, hashes: np.ndarray, where: np.ndarray) -> int | None:
        self.rows_computed += 1
        self.jumps += self._ends.get(row.request_id, row.start) != row.start
        self._ends[row.request_id] = row.end
        wrong = np.flatnonzero(self.slots[where] != hashes)
        if wrong.size:
            self.faults.append(
                f"{row.request_id} reads another prefix at token {wrong[0]} of {row.end}"
            )
        token = None
        if row.samples:
            token = WRONG_TOKEN if wrong.size else sample(int(hashes[-1]))
        self.bookkeeping.computed(row, token)
        return token
