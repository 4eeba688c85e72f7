"""kv-cache-tester: one coding-agent session a line, blocks of 64 tokens, times since the session's start.

The sessions carry no clock time. They are spread over 24 hours, and blocks are made of 512 tokens as in Mooncake.
Only the main agent's requests count; copies of another session are left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.lines import LineReader
from vllm_pensieve.trace.readers.records import KvctRequest, KvctSession

NAME = "kvct"
BLOCK_TOKENS = 512
SPREAD_S = 24 * 3600.0
SEED = 0


def read(lines: LineReader, builder: TraceBuilder) -> int:
    """Add all sessions' requests; return tokens of a block."""
    sessions = [
        session
        for number, session in lines.records(KvctSession, NAME)
        if session.duplicate_of is None and _block_fits(session, number, lines)
    ]
    starts_s = np.random.default_rng(SEED).uniform(0, SPREAD_S, len(sessions))
    next_id = 0
    for start_s, session in zip(starts_s, sessions, strict=True):
        own = [request for request in session.requests if request.type != "subagent"]
        blocks = merge_blocks(
            [_runs(request) for request in own], BLOCK_TOKENS // session.block_size
        )
        highest = 0
        for request, ids in zip(own, blocks, strict=True):
            highest = max(highest, int(ids.max(initial=0)))
            builder.add(
                start_s + request.t,
                ids + next_id,
                request.input_tokens,
                request.output_tokens,
                session=session.id,
            )
        next_id += highest + 1
    return BLOCK_TOKENS


def _block_fits(session: KvctSession, number: int, lines: LineReader) -> bool:
    if BLOCK_TOKENS % session.block_size == 0:
        return True
    lines.bad(number, f"blocks of {session.block_size} tokens do not divide {BLOCK_TOKENS}")
    return False


def _runs(request: KvctRequest) -> NDArray[np.int64]:
    """[runs, 2], first and last id of each."""
    if request.hash_runs is not None:
        return np.array(request.hash_runs, np.int64).reshape(-1, 2)
    ids = np.array(request.hash_ids, np.int64)
    return np.stack([ids, ids], axis=1)


def merge_blocks(requests: list[NDArray[np.int64]], factor: int) -> list[NDArray[np.int64]]:
    """Blocks of `factor` small ones, each named by the last of them; what does not fill one is left out.

    An id names a block and everything before it, so the last one names them all.
    requests: of each, the runs [runs, 2] of its small blocks' ids.
    """
    if not requests:
        return []
    runs = np.concatenate(requests)
    request_of = np.repeat(np.arange(len(requests)), [len(own) for own in requests])
    lengths = runs[:, 1] - runs[:, 0] + 1
    ends = np.cumsum(lengths)  # over all requests
    totals = np.bincount(request_of, lengths, len(requests)).astype(np.int64)
    base = np.concatenate(([0], np.cumsum(totals)))  # where a request begins
    end_in_request = ends - base[request_of]
    begin_in_request = end_in_request - lengths
    before = begin_in_request // factor  # merged blocks that end in earlier runs
    count = end_in_request // factor - before
    run_of = np.repeat(np.arange(len(runs)), count)
    nth = np.arange(len(run_of)) - np.repeat(np.cumsum(count) - count, count)
    last_small = (before[run_of] + nth + 1) * factor - 1
    ids = runs[run_of, 0] + last_small - begin_in_request[run_of]
    return np.split(ids, np.cumsum(totals // factor)[:-1])
