"""One line of each format, as it stands in the file."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

MOST_TOKENS = 2**27
"""More than any prompt has; what claims more is no length."""
Count = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
Length = Annotated[float, Meta(ge=0, le=MOST_TOKENS)]
"""A count that tools with columns of floats write as 1024.0."""
Size = Annotated[int, Meta(ge=1, le=MOST_TOKENS)]
Time = Annotated[float, Meta(ge=0)]
BlockId: TypeAlias = int | str
"""Any integer, however large, or string: it names a block and means nothing else."""
Run = tuple[
    Annotated[int, Meta(ge=-(2**62), le=2**62)], Annotated[int, Meta(ge=-(2**62), le=2**62)]
]
GLOBAL_SCOPE = "global"

MARKS = {"not_if_schema": "schema", "not_if_chat_id": "chat_id"}
"""Fields that show a record to be of a format with more fields, in which they mean something else."""


def is_foreign(record: Any) -> bool:
    """Whether the fields of a decoded record show that its line is of a richer format."""
    numbered = isinstance(getattr(record, "not_if_schema", UNSET), int)
    return numbered or getattr(record, "not_if_chat_id", UNSET) is not UNSET


class MooncakeRecord(Struct, gc=False, rename=MARKS):
    """timestamp, created_time, delay, delay_ms: ms. Each pair of names means one thing; all of them may be absent.

    delay: from the previous turn of the session. hash_ids: of the whole prompt; None: nothing is known of its blocks.
    """

    timestamp: Time | None = None
    created_time: Time | None = None
    delay: Time | None = None
    delay_ms: Time | None = None
    input_length: Length | None = None
    input_tokens: Length | None = None
    output_length: Length | None = None
    output_tokens: Length | None = None
    hash_ids: list[BlockId] | None = None
    session_id: int | str | None = None
    block_size: Size | None = None
    block_tokens: Size | None = None
    trace_block_size: Size | None = None
    not_if_schema: Any | UnsetType = UNSET
    not_if_chat_id: Any | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.hash_ids is None and self.input_length is None and self.input_tokens is None:
            raise ValueError("a request has neither hash_ids nor input_length")


class PensieveRecord(Struct, gc=False):
    """A line of PREFIX_requests.jsonl; what only summaries and captions use may be absent, and what schema 1 had not.

    timestamp: ms since the first arrival; in schema 1 of the run, else in the file. time: of the arrival, wall clock
    (s). choice: above 0 of the further choices of one request. Other seconds and shares as their names say.
    """

    request_id: str
    timestamp: Time
    input_length: Count
    output_length: Count
    hash_ids: list[BlockId]
    time: float | None = None
    run: str | None = None
    choice: Count = 0
    session_id: str | None = None
    workload: str | None = None
    block_tokens: Size | None = None
    model: Any = None
    prompt_tokens: Count | None = None
    prompt_tokens_resident: Count | None = None
    prompt_tokens_swapped: Count | None = None
    prompt_tokens_recovered: Count | None = None
    prompt_tokens_new: Count | None = None
    reuse_fraction: Annotated[float, Meta(ge=0, le=1)] | None = None
    ttft_s: Time | None = None


class BailianRecord(Struct, gc=False, rename=MARKS):
    """timestamp: s. A conversation is a chain of parent_chat_id, -1 at its start."""

    chat_id: int | str
    timestamp: Time
    input_length: Count
    output_length: Count
    hash_ids: list[BlockId]
    parent_chat_id: int | str | None = -1
    type: str | None = None
    block_size: Size | None = None
    block_tokens: Size | None = None
    trace_block_size: Size | None = None
    not_if_schema: Any | UnsetType = UNSET


class KvctRequest(Struct, gc=False, rename={"input_tokens": "in", "output_tokens": "out"}):
    """t: s since the session began, or since its sub-agent did.

    Either all block ids, or inclusive runs [first, last] of them, or nothing of the blocks. An entry of type `subagent`
    holds the requests of another agent and no blocks.
    """

    t: Time
    type: str = ""
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    hash_runs: list[Run] | None = None
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
