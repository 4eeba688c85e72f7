"""What a server of this process has done so far, in numbers and as text."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vllm_pensieve.machine import GB

STATES = ("resident", "swapped", "dropped")


@dataclass(frozen=True)
class Statistics:
    """Counts since the server was made, and the state now.

    prompt_tokens: by where their KV came from: resident, swapped, recovered, new. Stock modes know resident and new.
    conversation_blocks: full blocks of the conversations' tokens: resident, swapped or dropped.
    gpu_blocks, cpu_blocks: KV blocks that each tier can hold; used_...: that it holds now, cached or in use.
    block_bytes: of one, on all workers together.
    evictions: cached blocks that left GPU memory for host memory, and that were dropped; None in stock modes.
    recoveries: requests that computed dropped blocks in the middle of their prefix again.
    ttft_by_turn_s: mean time to first token of every turn, from the first on; None: all were stopped first.
    stateless: nothing is kept from one request to the next, so that what is said of caches means nothing.
    """

    mode: str
    sessions: int
    requests: int
    prompt_tokens: Mapping[str, int]
    conversation_blocks: Mapping[str, int]
    gpu_blocks: int
    used_gpu_blocks: int
    cpu_blocks: int
    used_cpu_blocks: int
    block_bytes: int
    evictions: Mapping[str, int] | None
    recoveries: int
    ttft_by_turn_s: tuple[float | None, ...]
    stateless: bool = False

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

    @property
    def speedup_by_turn(self) -> tuple[float | None, ...]:
        """TTFT of turn 1 divided by that of each later turn, from turn 2 on; None where either was not timed."""
        if not self.ttft_by_turn_s:
            return ()
        first, *later = self.ttft_by_turn_s
        return tuple(first / ttft if first and ttft else None for ttft in later)

    def __str__(self) -> str:
        tokens = ", ".join(f"{count:,} {source}" for source, count in self.prompt_tokens.items())
        times = [None if ttft is None else f"{ttft * 1e3:.0f} ms" for ttft in self.ttft_by_turn_s]
        ratios = [None if ratio is None else f"{ratio:.2f}x" for ratio in self.speedup_by_turn]
        return "\n".join(
            [
                f"mode              {self.mode}",
                f"requests          {self.requests} in {self.sessions} sessions",
                f"prompt tokens     {tokens}",
                *self._cache_lines(),
                f"TTFT by turn      {_by_turn(times, 1)}",
                f"Speedup by turn   {_by_turn(ratios, 2)} (TTFT of turn 1 / that of the turn)",
            ]
        )

    def _cache_lines(self) -> list[str]:
        if self.stateless:
            return ["Cache statistics: N/A (stateless)"]
        blocks = ", ".join(f"{self.conversation_blocks[state]:,} {state}" for state in STATES)
        lines = [
            f"GPU hit rate      {self.gpu_hit_rate:.1%} of prompt tokens",
            f"CPU hit rate      {self.cpu_hit_rate:.1%} of prompt tokens",
            f"blocks            {blocks} (of these conversations)",
            f"GPU cache         {self._usage(self.used_gpu_blocks, self.gpu_blocks)}",
            f"CPU cache         {self._usage(self.used_cpu_blocks, self.cpu_blocks)}",
        ]
        if self.evictions is not None:
            lines += [
                f"evictions         {self.evictions['host']:,} blocks to host memory, "
                f"{self.evictions['dropped']:,} dropped",
                f"recoveries        {self.recoveries:,} requests, {self.prompt_tokens['recovered']:,} tokens",
            ]
        return lines

    def _usage(self, used: int, blocks: int) -> str:
        if not blocks:
            return "none"
        used_gb, all_gb = (count * self.block_bytes / GB for count in (used, blocks))
        return f"{used_gb:.3f} of {all_gb:.3f} GB used ({used:,} of {blocks:,} blocks)"


def _by_turn(values: Sequence[str | None], first: int) -> str:
    """Values with the number of their turn."""
    return ", ".join(f"{turn}: {value or '-'}" for turn, value in enumerate(values, first)) or "-"


def mean_by_turn(times_s: Sequence[tuple[int, float]]) -> tuple[float | None, ...]:
    """Means of (turn from 1, seconds), one a turn up to the last one that was timed; None for no times."""
    last = max((turn for turn, _ in times_s), default=0)
    by_turn = [[seconds for turn, seconds in times_s if turn == n] for n in range(1, last + 1)]
    return tuple(statistics.fmean(times) if times else None for times in by_turn)
