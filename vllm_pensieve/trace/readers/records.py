"""One line of each format, as it stands in the file."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

Count = Annotated[int, Meta(ge=0)]
Time = Annotated[float, Meta(ge=0)]
BlockId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Run = tuple[int, int]


MARKS = {"not_if_request_id": "request_id", "not_if_chat_id": "chat_id"}
"""Fields that show a record to be of a format with more fields, in which they mean something else."""


class MooncakeRecord(Struct, gc=False, rename=MARKS):
    """timestamp: ms."""

    timestamp: Time
    input_length: Count
    output_length: Count
    hash_ids: list[BlockId]
    not_if_request_id: Any | UnsetType = UNSET
    not_if_chat_id: Any | UnsetType = UNSET


class PensieveRecord(Struct, gc=False):
    """A line of PREFIX_requests.jsonl; what only summaries and captions use may be absent.

    timestamp: ms. time: s since 1970. Seconds and shares as their names say.
    """

    request_id: str
    timestamp: Time
    input_length: Count
    output_length: Count
    hash_ids: list[BlockId]
    session_id: str | None = None
    workload: str | None = None
    block_tokens: Annotated[int, Meta(ge=1)] | None = None
    time: Any = None
    model: Any = None
    prompt_tokens: Count | None = None
    reuse_fraction: Annotated[float, Meta(ge=0, le=1)] | None = None


class BailianRecord(Struct, gc=False, rename=MARKS):
    """timestamp: s. A conversation is a chain of parent_chat_id, -1 at its start."""

    chat_id: int
    timestamp: Time
    input_length: Count
    output_length: Count
    hash_ids: list[BlockId]
    parent_chat_id: int = -1
    type: str | None = None
    not_if_request_id: Any | UnsetType = UNSET


class KvctRequest(Struct, gc=False, rename={"input_tokens": "in", "output_tokens": "out"}):
    """t: s since the session began. Either all block ids, or inclusive runs [first, last] of them.

    An entry of type `subagent` holds requests of its own and no blocks.
    """

    t: Time
    type: str = ""
    input_tokens: Count = 0
    output_tokens: Count = 0
    hash_runs: list[Run] | None = None
    hash_ids: list[BlockId] | None = None

    def __post_init__(self) -> None:
        if self.type != "subagent" and self.hash_runs is None and self.hash_ids is None:
            raise ValueError("a request has neither hash_runs nor hash_ids")


class KvctSession(Struct, gc=False):
    """One session; its block ids are its own."""

    id: str
    block_size: Annotated[int, Meta(ge=1)]
    requests: list[KvctRequest]
    duplicate_of: str | None = None
