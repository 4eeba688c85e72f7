"""kv-cache-tester (also Weka traces, AgentX): one coding-agent session a record or a file, times since its start.

The sessions carry no clock time: their starts are spread over 24 hours. Sub-agents are sessions of their own that share
their parent's block ids; copies of another session are left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from math import lcm
from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.numbering import renumber
from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.identities import Identities
from vllm_pensieve.trace.readers.lines import Records
from vllm_pensieve.trace.records import MOST_TOKENS, BlockId, Count, Size, Time
from vllm_pensieve.trace.wording import counted

NAME = "kvct"
SPREAD_S = 24 * 3600.0
SEED = 0
SUBAGENT = "subagent"
GLOBAL_SCOPE = "global"
Bound = Annotated[int, Meta(ge=-(2**62), le=2**62)]


class KvctRequest(Struct, gc=False, rename={"input_tokens": "in", "output_tokens": "out"}):
    """t: s since the session began, or since its sub-agent did.

    Either all block ids, or inclusive runs [first, last] of them, or nothing of the blocks. An entry of type `subagent`
    holds the requests of another agent and no blocks.
    """

    t: Time
    type: str = ""
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    hash_runs: list[tuple[Bound, Bound]] | None = None
    hash_ids: list[BlockId] | None = None
    requests: list[KvctRequest] | None = None

    def __post_init__(self) -> None:
        for first, last in self.hash_runs or ():
            if not 0 <= last - first < MOST_TOKENS:
                raise ValueError(
                    f"[{first}, {last}] in hash_runs is not a run of a prompt's blocks"
                )


class KvctSession(Struct, gc=False):
    """One session. hash_id_scope: `local`, its block ids are its own, or `global`."""

    id: int | str
    block_size: Size
    requests: list[KvctRequest]
    hash_id_scope: str = "local"
    duplicate_of: str | None = None


class _Entry(NamedTuple):
    """A request and who sent it. marker_s: when its sub-agents began, one within another; () for the main agent."""

    request: KvctRequest
    session: Hashable
    marker_s: tuple[float, ...]


def matches(fields: dict[str, Any]) -> bool:
    """Whether a record is a session: its requests, and the tokens of their blocks."""
    return "requests" in fields and "block_size" in fields


def read(lines: Records, builder: TraceBuilder) -> int | None:
    """Add all sessions' requests; return tokens of a block: as declared, or merged to the size asked for."""
    sessions = [
        session
        for number, session in lines.records(KvctSession, NAME)
        if session.duplicate_of is None
        and _block_fits(session, number, lines, builder.asked_tokens)
    ]
    if not sessions:
        return None
    block_tokens = builder.asked_tokens or _common_size(sessions, lines)
    entries = [list(_entries(session, (number,))) for number, session in enumerate(sessions)]
    relative = any(_before_its_marker(entry) for own in entries for entry in own)
    starts_s = np.random.default_rng(SEED).uniform(0, SPREAD_S, len(sessions))
    next_id = 0
    for members in _scopes(sessions):
        identities = Identities()
        blocks = [
            merged
            for i in members
            for merged in _merged(entries[i], block_tokens // sessions[i].block_size, identities)
        ]
        numbers, unique = _dense(blocks)
        own = [(starts_s[i], entry) for i in members for entry in entries[i]]
        for (start_s, entry), ids in zip(own, numbers, strict=True):
            request = entry.request
            builder.add(
                start_s + request.t + (sum(entry.marker_s) if relative else 0.0),
                None if ids is None else ids + next_id,
                request.input_tokens,
                request.output_tokens or 0,
                session=entry.session,
            )
        next_id += unique
    builder.notes += _about_subagents(entries, relative)
    return block_tokens


def _block_fits(
    session: KvctSession, number: int, lines: Records, block_tokens: int | None
) -> bool:
    if block_tokens is None or block_tokens % session.block_size == 0:
        return True
    lines.bad(number, f"blocks of {session.block_size} tokens do not divide {block_tokens}")
    return False


def _common_size(sessions: list[KvctSession], lines: Records) -> int:
    sizes = sorted({session.block_size for session in sessions})
    if len(sizes) > 1:
        raise TraceError(
            f"{lines.path}: sessions have blocks of {', '.join(map(str, sizes))} tokens; "
            f"--block-tokens {lcm(*sizes)} makes them of one size"
        )
    return sizes[0]


def _entries(
    session: KvctSession | KvctRequest,
    name: tuple[int, ...],
    markers_s: tuple[float, ...] = (),
) -> Iterator[_Entry]:
    """The requests of a session and of the agents below it. name: of the agent, as a path of numbers."""
    for number, request in enumerate(session.requests or ()):
        if request.type == SUBAGENT:
            yield from _entries(request, (*name, number), (*markers_s, request.t))
        else:
            yield _Entry(request, name, markers_s)


def _before_its_marker(entry: _Entry) -> bool:
    """Whether an absolute time would mean that a sub-agent sent this before it came to be."""
    return bool(entry.marker_s) and entry.request.t < entry.marker_s[-1]


def _scopes(sessions: list[KvctSession]) -> Iterable[list[int]]:
    """Sessions that share their block ids, by number: each alone, but all of global scope together."""
    shared = [i for i, session in enumerate(sessions) if session.hash_id_scope == GLOBAL_SCOPE]
    alone = [[i] for i, session in enumerate(sessions) if session.hash_id_scope != GLOBAL_SCOPE]
    return [*alone, shared] if shared else alone


def _merged(
    entries: list[_Entry], factor: int, identities: Identities
) -> list[NDArray[np.int64] | None]:
    """Blocks of `factor` small ones of each request; None where nothing is known of them."""
    runs = merge_blocks([_runs(entry.request) for entry in entries], factor)
    return [
        own
        if entry.request.hash_runs is not None
        else None
        if entry.request.hash_ids is None
        else identities.numbers(entry.request.hash_ids[factor - 1 :: factor])
        for entry, own in zip(entries, runs, strict=True)
    ]


def _runs(request: KvctRequest) -> NDArray[np.int64]:
    """[runs, 2], first and last id of each."""
    return np.array(request.hash_runs or (), np.int64).reshape(-1, 2)


def _dense(
    blocks: list[NDArray[np.int64] | None],
) -> tuple[list[NDArray[np.int64] | None], int]:
    """The same with numbers from 0, and how many there are."""
    known = [ids for ids in blocks if ids is not None]
    if not known:
        return blocks, 0
    numbers, unique = renumber(np.concatenate(known))
    parts = iter(np.split(numbers.astype(np.int64), np.cumsum([len(ids) for ids in known])[:-1]))
    return [None if ids is None else next(parts) for ids in blocks], unique


def _about_subagents(entries: list[list[_Entry]], relative: bool) -> list[str]:
    nested = [entry for own in entries for entry in own if entry.marker_s]
    if not nested:
        return []
    agents = len({entry.session for entry in nested})
    clock = "their agent's start" if relative else "the session's start"
    return [
        f"{counted(agents, 'sub-agent')} with {counted(len(nested), 'request')} counted as sessions of their own, "
        f"their times read as since {clock}"
    ]


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
