"""What is recorded: one workload, at one block size, into one pair of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vllm_pensieve.trace.files import trace_paths


@dataclass(frozen=True)
class Recording:
    """One workload's trace.

    simulate: no model is computed; replies have their recorded length, or the longest allowed.
    real_time: pauses are waited for; else they only move the clocks on.
    simulated_tokens: `recorded` or `echo`, see vllm_pensieve.simulator.
    name: of the files, without the folder and what follows it; `{workload}` and `{block_tokens}` stand for themselves.
    """

    workload: str
    model: str
    block_tokens: int
    out: Path
    simulate: bool
    max_prompt_tokens: int
    max_output_tokens: int
    kv_cache_gib: float
    real_time: bool
    simulated_tokens: str = "recorded"
    name: str = "prefix_{workload}_b{block_tokens}"

    @property
    def prefix(self) -> Path:
        """What the names of its files begin with, in the folder."""
        return self.out / self.name.format(workload=self.workload, block_tokens=self.block_tokens)

    @property
    def max_model_tokens(self) -> int:
        """Room for the longest request; a tokenizer may add a token of its own at either end."""
        return self.max_prompt_tokens + self.max_output_tokens + 2

    def files(self) -> list[Path]:
        return list(trace_paths(str(self.prefix)))
