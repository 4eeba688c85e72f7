"""Makes one trace of several, and larger blocks of small ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.numbering import renumber
from vllm_pensieve.trace.trace import Trace


def interleave(traces: Sequence[Trace], in_turns: bool = False) -> Trace:
    """All requests of the traces as one; blocks of different traces are different.

    They come in order of time, each trace beginning at 0; or in turns, one request of each trace that has one left,
    and then their times are only their order: one a second.

    Raises:
        TraceError: the block sizes differ.
    """
    sizes = {trace.block_tokens for trace in traces}
    if len(sizes) > 1:
        told = ", ".join(f"{trace.name}: {trace.block_tokens}" for trace in traces)
        raise TraceError(f"traces of different block sizes cannot be mixed ({told})")
    workloads = tuple(dict.fromkeys(name for trace in traces for name in trace.workloads))
    if in_turns:
        times_s = np.concatenate([np.arange(trace.requests, dtype=np.float64) for trace in traces])
    else:
        times_s = np.concatenate([trace.times_s - trace.times_s[0] for trace in traces])
    order = np.argsort(times_s, kind="stable")
    blocks: list[np.ndarray] = []
    workload_of, session_of = [], []
    first_block = first_session = 0
    for trace in traces:
        blocks += np.split(trace.blocks + np.int32(first_block), trace.offsets[1:-1])
        index = np.array([workloads.index(name) for name in trace.workloads], np.int32)
        workload_of.append(index[trace.workload_of])
        session_of.append(trace.session_of + first_session)
        first_block += trace.unique_blocks
        first_session += int(trace.session_of.max()) + 1
    lengths = np.concatenate([np.diff(trace.offsets) for trace in traces])[order]
    return Trace(
        name=", ".join(trace.name for trace in traces),
        format="mixed",
        blocks=np.concatenate([blocks[i] for i in order]),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        times_s=np.arange(len(order), dtype=np.float64) if in_turns else times_s[order],
        input_tokens=np.concatenate([trace.input_tokens for trace in traces])[order],
        output_tokens=np.concatenate([trace.output_tokens for trace in traces])[order],
        workload_of=np.concatenate(workload_of)[order],
        workloads=workloads,
        session_of=np.concatenate(session_of)[order],
        unique_blocks=first_block,
        block_tokens=next(iter(sizes)),
        skipped=tuple(line for trace in traces for line in trace.skipped),
        records=sum(trace.records for trace in traces),
        notes=tuple(f"{trace.name}: {note}" for trace in traces for note in trace.notes),
        model=_all_of(trace.model for trace in traces),
        recorded_on=_all_of(trace.recorded_on for trace in traces),
    )


def _all_of(texts: Iterable[str | None]) -> str | None:
    return ", ".join(dict.fromkeys(filter(None, texts))) or None


def coarsen(trace: Trace, block_tokens: int) -> Trace:
    """The trace with blocks of that many tokens, as if it had been recorded with them.

    A block's number names everything before it as well, so the last of those merged stands for all. What does not fill
    a block at the end of a prompt gets a number of its own, since it cannot be reused; where the trace names full
    blocks alone, it is left out as well.

    Raises:
        TraceError: that is no multiple of the trace's block size, or no prompt fills a block.
    """
    if trace.block_tokens in (None, block_tokens):
        return replace(trace, block_tokens=block_tokens)
    assert trace.block_tokens is not None
    factor, rest = divmod(block_tokens, trace.block_tokens)
    if rest or not factor:
        raise TraceError(
            f"{trace.name} has blocks of {trace.block_tokens} tokens; blocks of {block_tokens} cannot be made of them, "
            "only multiples"
        )
    lengths = np.diff(trace.offsets)
    known = trace.input_tokens > 0
    names_its_end = known & (lengths * trace.block_tokens >= trace.input_tokens)
    ends = (trace.offsets[1:] - 1)[names_its_end & (lengths % factor != 0)]
    kept = trace.positions() % factor == factor - 1
    if not kept.any():
        raise TraceError(f"{trace.name}: no prompt fills a block of {block_tokens} tokens")
    kept[ends] = True
    ids = trace.blocks.astype(np.int64)
    ids[ends] = trace.unique_blocks + np.arange(len(ends))
    blocks, unique = renumber(ids[kept])
    kept_before = np.concatenate(([0], np.cumsum(kept)))
    return replace(
        trace,
        blocks=blocks,
        offsets=kept_before[trace.offsets],
        unique_blocks=unique,
        block_tokens=block_tokens,
    )
