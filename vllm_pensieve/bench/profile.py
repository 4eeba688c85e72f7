"""Measures a cost profile on the running device: prefill steps by context length, and copies of blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vllm_pensieve.bench.cost_fit import TimedStep, TokensCostNothing, fit_costs
from vllm_pensieve.bench.timed_engine import TimedEngine
from vllm_pensieve.bench.transfers import measure_bandwidths
from vllm_pensieve.errors import UsageError
from vllm_pensieve.kv_shape import KvShape
from vllm_pensieve.machine import describe_versions
from vllm_pensieve.retention import MeasuredCostModel
from vllm_pensieve.retention.profile import SCHEMA, Point, Profile, ProfileKey, Provenance

FIRST_CONTEXT = 256
MOST_ROUNDS = 3
"""Rounds of repeats, while the times do not agree with each other."""
ACCEPTED_FIT_ERROR = 0.1
COPIED_BLOCKS = 100
"""Of one copy, scattered."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is timed. chunks: tokens of a step, ascending. repeats: of every step in a round, in turn.

    Raises:
        UsageError: there is one size only.
    """

    chunks: tuple[int, ...]
    repeats: int

    def __post_init__(self) -> None:
        if len(self.chunks) < 2:
            raise UsageError(
                f"--chunks {','.join(map(str, self.chunks))}: two sizes or more are needed to tell a step's overhead "
                "from its tokens"
            )


@dataclass(frozen=True)
class Shape:
    """What is known of the engine when it is gone: whose costs, and how large its blocks are on one worker."""

    key: ProfileKey
    model: str
    block_tokens: int
    layers: int
    block_bytes: int
    device: str


def contexts_up_to(context: int, chunk: int, block_size: int) -> list[int]:
    """0, 256, 512, 1024, ..., in whole blocks, as long as a chunk and a reply fit after; and the deepest that is."""
    deepest = (context - chunk - 1) // block_size * block_size
    if deepest < block_size:
        raise UsageError(
            f"a context of {context} tokens has no room for a step of {chunk} tokens after a block of {block_size}; "
            "lower --chunks or raise --max-context"
        )
    contexts = [0]
    length = -(-FIRST_CONTEXT // block_size) * block_size
    while length < deepest:
        contexts.append(length)
        length *= 2
    if len(contexts) > 2 and deepest - contexts[-1] < contexts[-1] // 4:
        contexts.pop()
    return [*contexts, deepest]


def check_plan(plan: Plan, engine: TimedEngine) -> None:
    """UsageError unless every chunk is computed in one step."""
    if plan.chunks[-1] > engine.step_tokens:
        raise UsageError(
            f"--chunks {plan.chunks[-1]}: a step has at most {engine.step_tokens} tokens "
            "of one prompt "
            "(see --max-num-batched-tokens and --long-prefill-token-threshold of vLLM)"
        )


def measure_costs(
    engine: TimedEngine, plan: Plan, tell: Tell = lambda text: None
) -> tuple[MeasuredCostModel, float]:
    """Costs in seconds, and their largest relative difference from the times.

    All steps take turns, so that they meet the same noise. What else runs on a machine only ever makes a step slower:
    the time of one is that which a quarter of its repeats do not exceed. While times contradict each other (a longer
    step takes less, cost falls with depth, ...) they are taken again, up to three times as often.

    Raises:
        UsageError: a chunk does not fit into a step or into the context, or steps of all sizes take the same time.
    """
    check_plan(plan, engine)
    contexts = contexts_up_to(engine.context, plan.chunks[-1], engine.block_size)
    base = engine.new_tokens(contexts[-1])
    tell(f"computing {len(base):,} tokens of context")
    engine.prefill(base)
    times: dict[tuple[int, int], list[float]] = {}
    for round_number in range(MOST_ROUNDS):
        for repeat in range(plan.repeats + (round_number == 0)):
            tell(f"timing steps after {len(contexts)} contexts, {repeat} of {plan.repeats}")
            for context in contexts:
                for chunk in plan.chunks:
                    seconds = _time_step(engine, base[:context], chunk)
                    if repeat or round_number:  # the first turn warms up
                        times.setdefault((context, chunk), []).append(seconds)
        steps = [TimedStep(*step, low_quartile(seconds)) for step, seconds in times.items()]
        try:
            model, error = fit_costs(steps)
        except TokensCostNothing:
            continue
        if error <= ACCEPTED_FIT_ERROR or round_number == MOST_ROUNDS - 1:
            return model, error
    sizes = ", ".join(map(str, plan.chunks))
    raise UsageError(
        f"a step takes the same time whether it computes {sizes} tokens, as far as can be measured; "
        "use larger --chunks, so that the cost of a token shows"
    )


def low_quartile(times: Sequence[float]) -> float:
    """A time that a quarter of these do not exceed."""
    return sorted(times)[(len(times) - 1) // 4]


def _time_step(engine: TimedEngine, context: Sequence[int], chunk: int) -> float:
    prompt = [*context, *engine.new_tokens(chunk)]
    for _ in range(2):
        timed = engine.prefill(prompt)
        engine.drop(prompt, len(context) // engine.block_size)
        if timed.cached_tokens == len(context):
            return timed.seconds
        engine.prefill(context)  # it was evicted
    raise UsageError(
        f"a step of {chunk} tokens after {len(context):,} cached ones cannot be timed: "
        f"{timed.cached_tokens:,} were cached; give the KV cache more memory, and leave prefix caching on"
    )


def shape_of(engine: TimedEngine) -> Shape:
    """Ask the engine before it is closed. UsageError if the plugin steps back with this model or configuration."""
    from vllm_pensieve.scheduler.costs import profile_key
    from vllm_pensieve.vllm_hooks.sizes import block_bytes

    because = engine.scheduler.plain_prefixes_because
    if because is not None:
        raise UsageError(f"there is nothing to profile: plain prefixes only, because {because}")
    (group,) = engine.scheduler.kv_cache_config.kv_cache_groups
    layers = len(group.layer_names)
    return Shape(
        key=profile_key(engine.config),
        model=engine.config.model_config.model,
        block_tokens=engine.block_size,
        layers=layers,
        block_bytes=block_bytes(engine.scheduler.kv_cache_config),
        device=engine.config.device_config.device_type,
    )


def complete_profile(
    shape: Shape, plan: Plan, costs: MeasuredCostModel, fit_error: float
) -> Profile:
    """The profile, once copies of blocks of this size have been timed in this process as well."""
    store, load = measure_bandwidths(
        KvShape(shape.layers, shape.block_bytes // shape.layers // shape.block_tokens),
        shape.block_tokens,
        COPIED_BLOCKS,
        shape.device,
        plan.repeats,
    )
    return Profile(
        schema=SCHEMA,
        date=datetime.now(UTC),
        key=shape.key,
        points=tuple(_points(costs)),
        step_s=costs.step_s,
        step_s_per_context_token=costs.step_s_per_token,
        store_bytes_per_s=store,
        load_bytes_per_s=load,
        measured=Provenance(
            model=shape.model,
            versions=describe_versions(),
            block_tokens=shape.block_tokens,
            chunks=plan.chunks,
            repeats=plan.repeats,
            fit_error=fit_error,
        ),
    )


def _points(costs: MeasuredCostModel) -> Iterator[Point]:
    for context, seconds in zip(costs.token_s.positions, costs.token_s.values, strict=True):
        yield Point(context, seconds)
