"""What the server records of requests and blocks: one JSON object a line."""

from __future__ import annotations

from msgspec import Struct

SCHEMA = 2


class RequestRecord(Struct, gc=False):
    """One request. Seconds and shares as the names say; token counts of the prompt add up to prompt_tokens.

    run: one start of an engine; block numbers and session ids of different runs have nothing in common.
    parent_request_id, choice: of a request that asks for several choices each is a request to vLLM: the one that was
    asked, and the choice's number in the order of arrival. Otherwise None and 0. They are one turn of their session.

    time, monotonic_s: its arrival. timestamp (ms since the first arrival in the file), input_length, output_length and
    hash_ids are as in the Mooncake format, so that other tools can replay the file; hash_ids names every full block of
    the prompt, and a last one that is not full by an id of its own, since it cannot be reused.
    """

    schema: int
    time: float
    monotonic_s: float
    run: str
    request_id: str
    parent_request_id: str | None
    choice: int
    session_id: str
    turn: int
    workload: str
    model: str
    block_tokens: int
    prompt_tokens: int
    output_tokens: int
    prompt_tokens_resident: int
    prompt_tokens_swapped: int
    prompt_tokens_recovered: int
    prompt_tokens_new: int
    reuse_fraction: float
    queue_s: float | None
    ttft_s: float | None
    e2e_s: float
    preemptions: int
    finish_reason: str | None
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


class BlockRecord(Struct, gc=False):
    """One block's life in the cache.

    block: as in hash_ids. position: tokens before it. hits: requests that found it; use_times: wall time of its first
    use and of the latest of these (at most `KEPT_TIMES`); reuse_gaps: seconds between them. fate: `dropped`, or at the
    end of the recording `alive` (in GPU memory) or `swapped` (in host memory); fate_time: when.
    """

    schema: int
    run: str
    block: int
    position: int
    session_id: str
    workload: str
    hits: int
    use_times: list[float]
    reuse_gaps: list[float]
    fate: str
    fate_time: float
