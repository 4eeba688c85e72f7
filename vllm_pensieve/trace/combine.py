"""Makes one trace of several, and larger blocks of small ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vllm_pensieve.trace.errors import TraceError
from vllm_pensieve.trace.numbering import renumber
from vllm_pensieve.trace.trace import Trace


def interleave(traces: Sequence[Trace]) -> Trace:
    """All requests in order of time, each trace beginning at 0; blocks of different traces are different.

    Raises:
        TraceError: the block sizes differ.
    """
    sizes = {trace.block_tokens for trace in traces}
    if len(sizes) > 1:
        told = ", ".join(f"{trace.name}: {trace.block_tokens}" for trace in traces)
        raise TraceError(f"traces of different block sizes cannot be mixed ({told})")
    workloads = tuple(dict.fromkeys(name for trace in traces for name in trace.workloads))
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
        times_s=times_s[order],
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
    )


def coarsen(trace: Trace, block_tokens: int) -> Trace:
    """The trace with blocks of so many tokens; what does not fill one at the end of a prompt is left out.

    A block's number names everything before it as well, so the last of those merged stands for all.

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
    kept = trace.positions() % factor == factor - 1
    if not kept.any():
        raise TraceError(f"{trace.name}: no prompt fills a block of {block_tokens} tokens")
    blocks, unique = renumber(trace.blocks[kept].astype(np.int64))
    return replace(
        trace,
        blocks=blocks,
        offsets=np.concatenate(([0], np.cumsum(np.diff(trace.offsets) // factor))),
        unique_blocks=unique,
        block_tokens=block_tokens,
    )
