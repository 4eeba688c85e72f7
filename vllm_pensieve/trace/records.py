"""One line of the server's own files, as it is written and as it is read again: a request, and a block."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct

SCHEMA = 2
MOST_TOKENS = 2**27
"""More than any prompt has; what claims more is no length."""
Count = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
Size = Annotated[int, Meta(ge=1, le=MOST_TOKENS)]
Time = Annotated[float, Meta(ge=0)]
BlockId: TypeAlias = int | str
"""Any integer, however large, or string: it names a block and means nothing else."""


class RequestRecord(Struct, gc=False, kw_only=True):
    """One request. Seconds and shares as the names say; token counts of the prompt add up to prompt_tokens.

    The server writes every field. A line that is read may lack those with a default: what schema 1 had not, and what
    only summaries and captions use.

    run: one start of an engine; block numbers and session ids of different runs have nothing in common.
    parent_request_id, choice: of a request that asks for several choices each is a request to vLLM: the one that was
    asked, and the choice's number in the order of arrival. Otherwise None and 0. They are one turn of their session.

    time, monotonic_s: its arrival. timestamp (ms since the first arrival; in schema 1 of the run, else in the file),
    input_length, output_length and hash_ids are as in the Mooncake format, so that other tools can replay the file;
    hash_ids names every full block of the prompt, and a last one that is not full by an id of its own, since it cannot
    be reused.
    """

    schema: int = SCHEMA
    time: float | None = None
    monotonic_s: float | None = None
    run: str | None = None
    request_id: str
    parent_request_id: str | None = None
    choice: Count = 0
    session_id: str | None = None
    turn: int = 0
    workload: str | None = None
    model: Any = None
    block_tokens: Size | None = None
    prompt_tokens: Count | None = None
    output_tokens: int | None = None
    prompt_tokens_resident: Count | None = None
    prompt_tokens_swapped: Count | None = None
    prompt_tokens_recovered: Count | None = None
    prompt_tokens_new: Count | None = None
    reuse_fraction: Annotated[float, Meta(ge=0, le=1)] | None = None
    queue_s: float | None = None
    ttft_s: Time | None = None
    e2e_s: float | None = None
    preemptions: int = 0
    finish_reason: str | None = None
    timestamp: Time
    input_length: Count
    output_length: Count
    hash_ids: list[BlockId]


class BlockRecord(Struct, gc=False, kw_only=True):
    """One block's life in the cache. A line that is read may lack the fields with a default.

    block: as in hash_ids. position: tokens before it. hits: requests that found it; use_times: wall time of its first
    use and of the latest of these (at most `KEPT_TIMES`); reuse_gaps: seconds between them. fate: `dropped`, or at the
    end of the recording `alive` (in GPU memory) or `swapped` (in host memory); fate_time: when.
    """

    schema: int = SCHEMA
    run: str | None = None
    block: int
    position: int | None = None
    session_id: str | None = None
    workload: str | None = None
    hits: Annotated[int, Meta(ge=0)]
    use_times: list[float] = []
    reuse_gaps: list[Time]
    fate: str | None = None
    fate_time: float | None = None
