"""A line for each turn of a comparison when all conversations have had it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from vllm_pensieve.bench.exchanges import Exchange
from vllm_pensieve.bench.plan import ComparePlan
from vllm_pensieve.tables import seconds


class TurnLines:
    """Tells when all conversations have had a turn, and how it went."""

    def __init__(self, plan: ComparePlan) -> None:
        lengths = [len(conversation.turns) for conversation in plan.conversations]
        self._requests = {
            turn: sum(length >= turn for length in lengths) for turn in range(1, max(lengths) + 1)
        }

    def line(self, records: Sequence[Exchange]) -> str | None:
        """The line of the last record's turn, if that was the turn's last; else None."""
        turn = records[-1].turn
        own = [record for record in records if record.turn == turn]
        if len(own) < self._requests.get(turn, 0):
            return None
        ttft = [record.ttft_s for record in own if record.ttft_s is not None]
        if not ttft:
            return f"Turn {turn}: none of {len(own)} requests answered"
        total = sum(record.prompt_tokens for record in own)
        cached = sum(record.cached_tokens for record in own) / total if total else 0.0
        return (
            f"Turn {turn}: TTFT {seconds(statistics.fmean(ttft))}, mean of {len(ttft)}; "
            f"Cache {cached:.0%} of {total:,} prompt tokens"
        )
