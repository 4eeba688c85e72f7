"""Multi-turn requests under heavy eviction, against stock vLLM with ample memory: the same tokens?

The reference plays the conversations first; what it answers becomes part of the next turn's prompt, so every arm gets
the same prompts in the same waves. An arm is one engine with a small memory. `scattered` evictions leave holes all
over the prefixes; `poisoned` overwrites a block's KV when the block is given out anew, and after every step the KV of
all free blocks that cache nothing. The controls leave out the recomputation, or the loads from host memory, and must
differ. Requests ask for greedy tokens, or each for another way to sample.
"""

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

from vllm import RequestOutput, SamplingParams

from vllm_pensieve.testing.breaks import skip_recomputation
from vllm_pensieve.testing.sampling import UNREPEATABLE, WAYS
from vllm_pensieve.testing.scattered import ScatteredOrder
from vllm_pensieve.testing.served import (
    BLOCK_TOKENS,
    Served,
    largest_logprob_difference,
    token_ids,
    tokens,
)

AMPLE_BLOCKS, AMPLE_TOKENS, LARGEST_WAVE = 12_000, 4096, 4


@dataclass(frozen=True)
class Turn:
    """way: how tokens are sampled, one of `WAYS`."""

    prompt: list[int]
    output_tokens: int
    way: str
    seed: int

    @property
    def params(self) -> SamplingParams:
        return WAYS[self.way](self.seed, self.output_tokens)


@dataclass(frozen=True)
class Arm:
    name: str
    scattered: bool = False
    poisoned: bool = False
    recompute: bool = True
    load: bool = True


PENSIEVE = Arm("pensieve, its own order")
SCATTERED = Arm("pensieve, scattered evictions", scattered=True)
POISONED = Arm("pensieve, scattered and poisoned", scattered=True, poisoned=True)
CONTROL = Arm("control: no recomputation", scattered=True, poisoned=True, recompute=False)
CONTROL_LOADS = Arm("control: nothing is loaded", load=False)


@dataclass
class Result:
    """What one arm answered, compared with the reference. Shares are of all prompt tokens.

    answered: all requests; requests: those that stock vLLM answers alike every time, which are compared.
    """

    arm: str
    answered: int
    requests: int
    differing_requests: int
    output_tokens: int
    differing_tokens: int
    largest_logprob_difference: float
    resident_share: float
    swapped_share: float
    recovered_share: float
    new_share: float
    preemptions: int
    prompts_of_all_sources: int


@dataclass
class Report:
    """`results` of the arms that must equal the reference, and of the control, which must not.

    ways: how many requests sampled in which way.
    """

    requests: int
    ways: dict[str, int]
    prompt_tokens: int
    working_set_blocks: int
    capacity_blocks: int
    host_blocks: int
    results: list[Result]
    control: Result

    def failures(self, recovered_above: float) -> list[str]:
        """Why the run does not show what it must show; empty if it does."""
        found = [
            f"{r.arm}: {r.differing_tokens} tokens differ"
            for r in self.results
            if r.differing_tokens
        ]
        found += [
            f"{r.arm}: {r.recovered_share:.1%} of prompt tokens recovered, more than {recovered_above:.0%} are needed"
            for r in self.results
            if not self.host_blocks
            and r.arm != PENSIEVE.name
            and r.recovered_share <= recovered_above
        ]
        found += [
            f"{r.arm}: no prompt came from all four sources"
            for r in self.results
            if self.host_blocks and not r.prompts_of_all_sources
        ]
        if not self.control.differing_tokens:
            found.append(f"{self.control.arm}: no token differs, so the comparison shows nothing")
        return found


class Conversations:
    """Waves of turns: those of a wave run together; `sessions` times `turns` requests in all."""

    def __init__(
        self, sessions: int, turns: int, seed: int = 0, ways: Sequence[str] = ("greedy",)
    ) -> None:
        self.random = random.Random(seed)
        self.ways = itertools.cycle(ways)
        system_prompts = [tokens(length, seed=900 + length) for length in (40, 64, 130)]
        self.histories = [list(self.random.choice(system_prompts)) for _ in range(sessions)]
        self.turns_left = [turns] * sessions
        self.waves: list[list[Turn]] = []

    def play_reference(self, stock: Served) -> list[list[RequestOutput]]:
        """Play all turns on stock vLLM, which makes the waves; returns its outputs."""
        outputs = []
        while any(self.turns_left):
            who = self._next_sessions()
            wave = [self._next_turn(session) for session in who]
            answers = play_wave(stock, wave)
            for session, answer in zip(who, answers, strict=True):
                self.histories[session] += token_ids(answer)
            self.waves.append(wave)
            outputs.append(answers)
        return outputs

    def _next_sessions(self) -> list[int]:
        unfinished = [session for session, left in enumerate(self.turns_left) if left]
        return self.random.sample(
            unfinished, min(self.random.choice([1, 1, 2, LARGEST_WAVE]), len(unfinished))
        )

    def _next_turn(self, session: int) -> Turn:
        self.turns_left[session] -= 1
        self.histories[session] += tokens(
            self.random.choice([20, 33, 64, 120, 160]), seed=self.random.randrange(1 << 30)
        )
        output_tokens = self.random.choice([5, 12, 20, 48])
        seed = sum(self.turns_left)  # another for each turn
        return Turn(list(self.histories[session]), output_tokens, next(self.ways), seed)

    def working_set_blocks(self) -> int:
        """Distinct full blocks of all conversations."""
        prefixes = {
            tuple(history[:end])
            for history in self.histories
            for end in range(BLOCK_TOKENS, len(history) + 1, BLOCK_TOKENS)
        }
        return len(prefixes)


def play_wave(
    served: Served, wave: list[Turn], after_step: Callable[[], None] = lambda: None
) -> list[RequestOutput]:
    names = [served.add(turn.prompt, params=turn.params) for turn in wave]
    outputs: dict[str, RequestOutput] = {}
    while served.engine.has_unfinished_requests():
        outputs |= served.step()
        after_step()
    return [outputs[name] for name in names]


@dataclass
class Played:
    """What one arm did: the engine, its outputs wave by wave, and what was counted."""

    served: Served
    outputs: list[list[RequestOutput]]
    preemptions: int
    sources: list[tuple[int, ...]]  # tokens of each prompt: resident, swapped, recovered, new


def play_arm(
    arm: Arm, model: Path, waves: list[list[Turn]], capacity_blocks: int, host_blocks: int
) -> Played:
    """Play the waves with a memory of `capacity_blocks`, and checksums over the host tier if there is one.

    A step takes the longest prompt of a request with a seed whole: vLLM cannot compute those in parts on a CPU.
    """
    seeded = [turn for wave in waves for turn in wave if turn.params.seed is not None]
    served = Served(
        model,
        step_tokens=max([256, *(len(turn.prompt) + turn.output_tokens for turn in seeded)]),
        blocks=capacity_blocks + 1,  # vLLM keeps one for itself
        max_model_tokens=max(len(t.prompt) + t.output_tokens for wave in waves for t in wave),
        settings={"step_cost_tokens": 0 if arm.scattered else 128, "verify_swaps": True},
        host_blocks=host_blocks,
    )
    if arm.scattered:
        served.pool.free_block_queue.order = ScatteredOrder(seed=1)
        if host_blocks:
            served.scheduler.swapper.host._only = ScatteredOrder(seed=2)
            served.scheduler.swapper._dirty = ScatteredOrder(seed=3)
    if not arm.load:
        served.connector.worker.copier.load = lambda pairs: None
    if not arm.recompute:
        skip_recomputation(served.scheduler)
    if arm.poisoned:
        served.poison_blocks_given_out()
    preemptions = served.count_preemptions()
    after_step = served.poison_empty_blocks if arm.poisoned else lambda: None
    sources = watch_sources(served)
    outputs = [play_wave(served, wave, after_step) for wave in waves]
    served.assert_nothing_left()
    return Played(served, outputs, preemptions(), sources)


def watch_sources(served: Served) -> list[tuple[int, ...]]:
    """From now on every admitted prompt's tokens by source."""
    stats = served.scheduler.pensieve_stats
    seen: list[tuple[int, ...]] = []
    count_prompt = stats.count_prompt

    def watched(total: int, resident: int, swapped: int, recovered: int) -> None:
        seen.append((resident, swapped, recovered, total - resident - swapped - recovered))
        count_prompt(total, resident, swapped, recovered)

    stats.count_prompt = watched
    return seen


def all_token_ids(output: RequestOutput) -> list[tuple[int, int]]:
    """The choice and the token, for all choices."""
    return [(choice.index, token) for choice in output.outputs for token in choice.token_ids]


def compare(
    arm: Arm, played: Played, waves: list[list[Turn]], reference: list[list[RequestOutput]]
) -> Result:
    served = played.served
    pairs = [
        (ours, want)
        for wave, *outputs in zip(waves, played.outputs, reference, strict=True)
        for turn, ours, want in zip(wave, *outputs, strict=True)
        if turn.way != UNREPEATABLE
    ]
    differing = [
        sum(x != y for x, y in zip_longest(all_token_ids(ours), all_token_ids(want)))
        for ours, want in pairs
    ]
    same = [pair for pair, wrong in zip(pairs, differing, strict=True) if not wrong]
    total = sum(served.prompt_tokens.values())
    return Result(
        arm=arm.name,
        answered=sum(map(len, played.outputs)),
        requests=len(pairs),
        differing_requests=sum(wrong > 0 for wrong in differing),
        output_tokens=sum(len(all_token_ids(want)) for _, want in pairs),
        differing_tokens=sum(differing),
        largest_logprob_difference=max(
            (largest_logprob_difference(*pair) for pair in same), default=0.0
        ),
        resident_share=served.prompt_tokens["resident"] / total,
        swapped_share=served.prompt_tokens["swapped"] / total,
        recovered_share=served.prompt_tokens["recovered"] / total,
        new_share=served.prompt_tokens["new"] / total,
        preemptions=played.preemptions,
        prompts_of_all_sources=sum(min(prompt) > 0 for prompt in played.sources),
    )


def run(
    model: Path,
    sessions: int,
    turns: int,
    capacity_share: float = 0.15,
    host_share: float = 0.0,
    seed: int = 0,
    keep: Callable[[Served], None] = lambda engine: None,
    ways: Sequence[str] = ("greedy",),
) -> Report:
    """Play the reference and all arms. `keep` is given every engine, so that a caller can keep it alive.

    capacity_share, host_share: memory of the GPU and of the host as shares of the working set.
    ways: to sample, which the requests take in turn.
    """
    conversations = Conversations(sessions, turns, seed, ways)
    stock = Served(
        model,
        scheduler=None,
        blocks=AMPLE_BLOCKS,
        max_model_tokens=AMPLE_TOKENS,
        step_tokens=256 if ways == ("greedy",) else LARGEST_WAVE * AMPLE_TOKENS,
    )
    keep(stock)
    reference = conversations.play_reference(stock)
    working_set = conversations.working_set_blocks()
    capacity = round(capacity_share * working_set)
    host = round(host_share * working_set)
    arms = (PENSIEVE, POISONED, CONTROL_LOADS) if host else (PENSIEVE, SCATTERED, POISONED, CONTROL)
    results = []
    for arm in arms:
        played = play_arm(arm, model, conversations.waves, capacity, host)
        keep(played.served)
        results.append(compare(arm, played, conversations.waves, reference))
    *same, control = results
    return Report(
        requests=sum(map(len, conversations.waves)),
        ways=Counter(turn.way for wave in conversations.waves for turn in wave),
        prompt_tokens=sum(len(turn.prompt) for wave in conversations.waves for turn in wave),
        working_set_blocks=working_set,
        capacity_blocks=capacity,
        host_blocks=host,
        results=same,
        control=control,
    )


def as_json(report: Report, failures: list[str], machine: Mapping[str, object]) -> str:
    return json.dumps(
        {"schema": 1, "machine": machine, **asdict(report), "failures": failures}, indent=1
    )
