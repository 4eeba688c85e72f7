"""What the server records of requests and blocks: one JSON object a line."""

from __future__ import annotations

from msgspec import Struct

SCHEMA = 1


class RequestRecord(Struct, gc=False):
    """One finished request. Seconds and shares as the names say; token counts of the prompt add up to prompt_tokens.

    time, monotonic_s: its arrival. timestamp (ms since the first arrival), input_length, output_length and hash_ids are
    as in the Mooncake format, so that other tools can replay the file; hash_ids names every full block of the prompt,
    and a last one that is not full by an id of its own, since it cannot be reused.
    """

    schema: int
    time: float
    monotonic_s: float
    request_id: str
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
    block: int
    position: int
    session_id: str
    workload: str
    hits: int
    use_times: list[float]
    reuse_gaps: list[float]
    fate: str
    fate_time: float
