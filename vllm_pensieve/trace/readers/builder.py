"""Collects requests in any order and makes the arrays of a trace from them."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.trace.numbering import known_by_their_prefix, renumber
from vllm_pensieve.trace.readers.identities import Identities
from vllm_pensieve.trace.records import BlockId
from vllm_pensieve.trace.served import Measured, reuse_fractions, served
from vllm_pensieve.trace.trace import Trace

UNKNOWN = -1
"""Tokens of a prompt whose length is not in the file."""


class TraceBuilder:
    """`add` once a request, `build` at the end.

    model, recorded_on: of the trace, where a format has them.
    asked_tokens: size of blocks that the user asked for; a reader that can merge smaller ones at less cost does so.
    notes: what readers have to say about the trace; added to freely.
    """

    def __init__(self, default_workload: str, asked_tokens: int | None = None) -> None:
        self.asked_tokens = asked_tokens
        self.notes: list[str] = []
        self.model: str | None = None
        self.recorded_on: str | None = None
        self._default_workload = default_workload
        self._identities = Identities()
        self._blocks: list[NDArray[np.int64] | None] = []
        self._times_s = array("d")
        self._input_tokens = array("q")
        self._output_tokens = array("q")
        self._workload_of = array("q")
        self._session_of = array("q")
        self._workloads: dict[str, int] = {}
        self._sessions: dict[Hashable, int] = {}
        self._measured: list[Measured | None] = []

    def add(
        self,
        time_s: float,
        block_ids: NDArray[np.int64] | Sequence[BlockId] | None,
        input_tokens: float | None,
        output_tokens: float,
        *,
        session: Hashable = None,
        workload: str | None = None,
        measured: Measured | None = None,
    ) -> None:
        """One request; without a session it counts as one of its own.

        block_ids: None if they are not known; then all blocks of the prompt are new, and nobody uses them again.
        input_tokens: None if only the blocks are known. measured: by the server, where it recorded this.
        """
        workload = workload or self._default_workload
        if session is None:
            session = ("request", len(self._blocks))
        if block_ids is not None and not isinstance(block_ids, np.ndarray):
            block_ids = self._identities.numbers(block_ids)
        self._blocks.append(block_ids)
        self._measured.append(measured)
        self._times_s.append(time_s)
        self._input_tokens.append(UNKNOWN if input_tokens is None else int(input_tokens))
        self._output_tokens.append(int(output_tokens))
        self._workload_of.append(self._workloads.setdefault(workload, len(self._workloads)))
        self._session_of.append(self._sessions.setdefault(session, len(self._sessions)))

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def knows_blocks(self) -> bool:
        """Whether the block ids of any request are known."""
        return any(blocks is not None for blocks in self._blocks)

    def known_lengths(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens and number of blocks of each prompt of which both are known."""
        known = [
            (tokens, len(blocks))
            for tokens, blocks in zip(self._input_tokens, self._blocks, strict=True)
            if blocks is not None and tokens != UNKNOWN
        ]
        both = np.array(known, np.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def computed_ids(self, block_tokens: int | None) -> NDArray[np.int64]:
        """The ids of the full blocks of all prompts that had an answer, ascending, each once; none without a size."""
        full = [
            ids[: max(0, tokens) // block_tokens]
            for ids, tokens, answered in zip(
                self._blocks, self._input_tokens, self._output_tokens, strict=True
            )
            if block_tokens and answered and ids is not None
        ]
        return np.unique(np.concatenate(full)) if full else np.zeros(0, np.int64)

    def build(self, name: str, format_name: str, block_tokens: int | None) -> Trace:
        """The trace, its requests ordered by time; those of one time stay in the order they came in.

        block_tokens: tokens of a block as they stand in the file; None if that is not known.
        """
        times_s = np.array(self._times_s)
        order = np.argsort(times_s, kind="stable")
        self._tell_unknown(block_tokens)
        prompts = [self._blocks[i] for i in order]
        measured = [self._measured[i] for i in order]
        input_tokens = np.array(self._input_tokens)[order]
        lengths = np.array(
            [
                _blocks_of(int(tokens), block_tokens) if ids is None else len(ids)
                for tokens, ids in zip(input_tokens, prompts, strict=True)
            ],
            np.int64,
        )
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        blocks, unique = _numbered(prompts, offsets)
        blocks, unique, moved = known_by_their_prefix(blocks, offsets, unique)
        if moved:
            self.notes.append(
                f"{moved:,} of {len(blocks):,} lookups name a block that elsewhere has other blocks before it: ids "
                "name content alone in this file, so such blocks count as different ones, as they are to a prefix cache"
            )
        return Trace(
            name=name,
            format=format_name,
            blocks=blocks,
            offsets=offsets,
            times_s=times_s[order],
            input_tokens=np.where(
                input_tokens == UNKNOWN, lengths * (block_tokens or 0), input_tokens
            ),
            output_tokens=np.array(self._output_tokens)[order],
            workload_of=np.array(self._workload_of)[order].astype(np.int32),
            workloads=tuple(self._workloads),
            session_of=np.array(self._session_of)[order].astype(np.int32),
            unique_blocks=unique,
            block_tokens=block_tokens,
            model=self.model,
            recorded_on=self.recorded_on,
            reuse_fraction=reuse_fractions(measured),
            served=served(measured),
        )

    def _tell_unknown(self, block_tokens: int | None) -> None:
        unknown = sum(blocks is None for blocks in self._blocks)
        if unknown and block_tokens:
            self.notes.append(
                f"{unknown:,} of {len(self):,} requests have no hash_ids: all their blocks count as new, and as "
                "used by nobody else"
            )
        elif unknown:
            self.notes.append(
                f"{unknown:,} of {len(self):,} requests have no hash_ids: without --block-tokens their blocks "
                "cannot be counted and are left out"
            )


def _blocks_of(tokens: int, block_tokens: int | None) -> int:
    """How many blocks a prompt fills, the last one perhaps in part."""
    return -(-tokens // block_tokens) if block_tokens and tokens != UNKNOWN else 0


def _numbered(
    prompts: Sequence[NDArray[np.int64] | None], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], int]:
    """Dense numbers of all blocks, new ones for prompts whose blocks are not known; and how many there are."""
    known = [ids for ids in prompts if ids is not None]
    numbers, unique = renumber(np.concatenate(known) if known else np.zeros(0, np.int64))
    if len(known) == len(prompts):
        return numbers, unique
    is_known = np.repeat([ids is not None for ids in prompts], np.diff(offsets))
    blocks = np.empty(len(is_known), np.int32)
    blocks[is_known] = numbers
    new = len(is_known) - len(numbers)
    blocks[~is_known] = np.arange(unique, unique + new)
    return blocks, unique + new
