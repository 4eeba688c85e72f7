"""A profile against what it predicts: dropped runs that the plugin really recovers in the middle of cached prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllm_pensieve.bench.profile import low_quartile
from vllm_pensieve.bench.timed_engine import TimedEngine
from vllm_pensieve.errors import UsageError
from vllm_pensieve.retention import CostModel

CONTEXTS = (384, 768, 1500, 3000, 6000, 12000)
"""Most of them between the contexts that are profiled."""
RUN_TOKENS = (256, 512)
KEPT_BEHIND_TOKENS = 512
NEW_TOKENS = 17
ACCEPTED_ERROR = 0.15


@dataclass(frozen=True)
class Case:
    """A prompt whose cached prefix misses the blocks [first_block, end_block)."""

    first_block: int
    end_block: int
    prompt: list[int]


@dataclass(frozen=True)
class Comparison:
    """Time to the first token with the run dropped, less that without, next to what the profile says of it."""

    context_tokens: int
    run_tokens: int
    with_run_dropped_s: float
    all_cached_s: float
    predicted_s: float

    @property
    def measured_s(self) -> float:
        return self.with_run_dropped_s - self.all_cached_s

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was measured."""
        return self.predicted_s / self.measured_s - 1


def check_costs(
    engine: TimedEngine,
    costs: CostModel,
    repeats: int,
    contexts: Sequence[int] = CONTEXTS,
    run_tokens: Sequence[int] = RUN_TOKENS,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Comparison]:
    """Serve every prompt with and without its run, `repeats` times after one that does not count, all in turn.

    A prompt consists of `contexts` tokens, the run of `run_tokens`, kept tokens after it, each in whole blocks, and a
    few new tokens. The prediction is the cost of the run and of the steps that the walk adds.

    Raises:
        UsageError: the context has no room for any of this, or a run was not recovered as it should be.
    """
    size = engine.block_size
    kept = -(-KEPT_BEHIND_TOKENS // size)
    runs = [
        (first, first + run)
        for first in (-(-tokens // size) for tokens in contexts)
        for run in sorted({-(-tokens // size) for tokens in run_tokens})
        if (first + run + kept) * size + NEW_TOKENS < engine.context
    ]
    if not runs:
        raise UsageError(
            f"a context of {engine.context} tokens has no room for a run after {contexts[0]}"
        )
    base = engine.new_tokens(max(first for first, _ in runs) * size)
    cases = [
        Case(first, end, base[: first * size] + engine.new_tokens((end + kept - first) * size))
        for first, end in runs
    ]
    dropped: dict[int, list[float]] = {}
    cached: dict[int, list[float]] = {}
    for repeat in range(-1, repeats):
        tell(f"recovering {len(cases)} runs, {max(repeat, 0)} of {repeats} times")
        for number, case in enumerate(cases):
            if repeat < 0:
                engine.prefill(case.prompt)
            missing, whole = _recover(engine, case), _serve_whole(engine, case)
            if repeat >= 0:
                dropped.setdefault(number, []).append(missing)
                cached.setdefault(number, []).append(whole)
    return [
        Comparison(
            context_tokens=case.first_block * size,
            run_tokens=(case.end_block - case.first_block) * size,
            with_run_dropped_s=low_quartile(dropped[number]),
            all_cached_s=low_quartile(cached[number]),
            predicted_s=predicted(
                costs, case.first_block * size, case.end_block * size, engine.step_tokens
            ),
        )
        for number, case in enumerate(cases)
    ]


def predicted(costs: CostModel, start: int, end: int, step_tokens: int) -> float:
    """To compute the tokens [start, end) in steps of their own."""
    ends = [*range(start + step_tokens, end, step_tokens), end]
    return costs.span(start, end) + sum(costs.step(step_end) for step_end in ends)


def _recover(engine: TimedEngine, case: Case) -> float:
    engine.drop(case.prompt, case.first_block, case.end_block)
    timed = engine.prefill([*case.prompt, *engine.new_tokens(NEW_TOKENS)])
    expected = (case.end_block - case.first_block) * engine.block_size
    if timed.recovered_tokens != expected:
        raise UsageError(
            f"{timed.recovered_tokens} tokens were recovered instead of {expected}: recovery is off, "
            "or the KV cache does not have enough memory"
        )
    return timed.seconds


def _serve_whole(engine: TimedEngine, case: Case) -> float:
    timed = engine.prefill([*case.prompt, *engine.new_tokens(NEW_TOKENS)])
    if timed.cached_tokens != len(case.prompt):
        raise UsageError("the KV cache does not have enough memory for the prompts that take turns")
    return timed.seconds
