"""What a server of this process has done so far, in numbers and as text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GB = 1e9
STATES = ("resident", "swapped", "dropped")


@dataclass(frozen=True)
class Statistics:
    """Counts since the server was made, and the state now.

    prompt_tokens: by where their KV came from: resident, swapped, recovered, new. Stock modes know resident and new.
    conversation_blocks: full blocks of the conversations' tokens: resident, swapped or dropped.
    gpu_blocks, cpu_blocks: KV blocks that each tier holds at most; block_bytes: of one, on all workers together.
    evictions: cached blocks that left GPU memory for host memory, and that were dropped; None in stock modes.
    recoveries: requests that computed dropped blocks in the middle of their prefix again.
    ttft_by_turn_s: mean time to first token of every turn, from the first on; None: all were stopped first.
    """

    mode: str
    sessions: int
    requests: int
    prompt_tokens: Mapping[str, int]
    conversation_blocks: Mapping[str, int]
    gpu_blocks: int
    cpu_blocks: int
    block_bytes: int
    evictions: Mapping[str, int] | None
    recoveries: int
    ttft_by_turn_s: tuple[float | None, ...]

    @property
    def gpu_hit_rate(self) -> float:
        """Share of the prompt tokens whose KV was used where it was, in GPU memory."""
        return self._share("resident")

    @property
    def cpu_hit_rate(self) -> float:
        """Share of the prompt tokens whose KV was loaded from host memory."""
        return self._share("swapped")

    def _share(self, source: str) -> float:
        total = sum(self.prompt_tokens.values())
        return self.prompt_tokens[source] / total if total else 0.0

    def __str__(self) -> str:
        tokens = ", ".join(f"{count:,} {source}" for source, count in self.prompt_tokens.items())
        blocks = ", ".join(f"{self.conversation_blocks[state]:,} {state}" for state in STATES)
        lines = [
            f"mode              {self.mode}",
            f"requests          {self.requests} in {self.sessions} sessions",
            f"GPU hit rate      {self.gpu_hit_rate:.1%} of prompt tokens",
            f"CPU hit rate      {self.cpu_hit_rate:.1%} of prompt tokens",
            f"prompt tokens     {tokens}",
            f"blocks            {blocks} (of these conversations)",
            f"GPU cache         {self._size(self.gpu_blocks)}",
            f"CPU cache         {self._size(self.cpu_blocks)}",
        ]
        if self.evictions is not None:
            lines.append(
                f"evictions         {self.evictions['host']:,} blocks to host memory, "
                f"{self.evictions['dropped']:,} dropped"
            )
            lines.append(
                f"recoveries        {self.recoveries:,} requests, {self.prompt_tokens['recovered']:,} tokens"
            )
        turns = ", ".join(
            f"{turn}: " + ("-" if seconds is None else f"{seconds * 1e3:.0f} ms")
            for turn, seconds in enumerate(self.ttft_by_turn_s, start=1)
        )
        lines.append(f"TTFT by turn      {turns or '-'}")
        return "\n".join(lines)

    def _size(self, blocks: int) -> str:
        return f"{blocks * self.block_bytes / GB:.3f} GB ({blocks:,} blocks)" if blocks else "none"


def mean_by_turn(times_s: Sequence[tuple[int, float]]) -> tuple[float | None, ...]:
    """Means of (turn from 1, seconds), one a turn up to the last one that was timed; None for no times."""
    last = max((turn for turn, _ in times_s), default=0)
    by_turn = [[seconds for turn, seconds in times_s if turn == n] for n in range(1, last + 1)]
    return tuple(statistics.fmean(times) if times else None for times in by_turn)
