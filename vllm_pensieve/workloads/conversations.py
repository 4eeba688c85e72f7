"""What a conversation to replay is, and how conversations are generated from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from vllm_pensieve.workloads.text import write_text

SHAREGPT_TURNS = 5.6
SHAREGPT_INPUT_TOKENS = 38
SHAREGPT_OUTPUT_TOKENS = 205
"""Published means of ShareGPT conversations (Pensieve paper, EuroSys 2025, table 2): turns a
conversation, tokens a turn.
"""

LENGTH_SIGMA = 0.7
"""Spread of lengths drawn around a published mean (log-normal; only the means are published)."""

MAX_DRAWN_TURNS = 30


@dataclass(frozen=True)
class Turn:
    """One user message and what is asked for in return."""

    text: str
    input_tokens: int
    output_tokens: int
    think_time_s: float
    """Seconds between the previous reply (or the session's start) and this request."""


@dataclass(frozen=True)
class Conversation:
    """One session: its turns in order, and a system message or None."""

    session_id: str
    turns: tuple[Turn, ...]
    system: str | None = None
    system_tokens: int = 0
    after: str | None = None
    """The session that the same user has before this one."""

    def context_tokens(self, message_overhead_tokens: int) -> int:
        """Tokens of the whole conversation at its end, with that many more for every message."""
        messages = 2 * len(self.turns) + 1
        text = sum(turn.input_tokens + turn.output_tokens for turn in self.turns)
        return self.system_tokens + text + messages * message_overhead_tokens


@dataclass(frozen=True)
class WorkloadSpec:
    """Parameters of generated conversations.

    None for turns or output tokens: drawn with the published ShareGPT means.
    """

    name: str
    sessions: int
    turns: int | None
    history_tokens: int
    input_tokens: int | None
    output_tokens: int | None
    think_time_s: float
    concurrency: int


PRESETS = {
    "demo": WorkloadSpec("demo", 2, 7, 8192, 38, 32, 1.0, 2),
    "chat": WorkloadSpec("chat", 20, None, 0, None, None, 2.0, 4),
    "documents": WorkloadSpec("documents", 6, 4, 8192, 24, 64, 2.0, 2),
}
"""Workloads by name.

`demo` is what `pensieve compare` runs without options: chats about a pasted text of 8,192 tokens.
"""


def generate_conversations(
    spec: WorkloadSpec, seed: int, tokens_to_characters: Callable[[int], int]
) -> list[Conversation]:
    """Return the conversations of `spec`; the same seed gives the same conversations.

    `tokens_to_characters` turns a number of tokens of the model's tokenizer into a number of characters of
    generated text.
    """
    return [
        generate_conversation(spec, seed, number, tokens_to_characters)
        for number in range(spec.sessions)
    ]


def generate_conversation(
    spec: WorkloadSpec, seed: int, number: int, tokens_to_characters: Callable[[int], int]
) -> Conversation:
    """Return the conversation of this number (from 0); see `generate_conversations`."""
    rng = random.Random(f"{seed}/{number}")
    turns = []
    for index in range(spec.turns or draw_turns(rng)):
        question_tokens = spec.input_tokens or draw_length(rng, SHAREGPT_INPUT_TOKENS)
        text = write_text(rng, tokens_to_characters(question_tokens))
        input_tokens = question_tokens
        if index == 0 and spec.history_tokens:
            text = f"{write_text(rng, tokens_to_characters(spec.history_tokens))}\n{text}"
            input_tokens += spec.history_tokens
        output_tokens = spec.output_tokens or draw_length(rng, SHAREGPT_OUTPUT_TOKENS)
        turns.append(
            Turn(text, input_tokens, output_tokens, draw_think_time(rng, spec.think_time_s))
        )
    return Conversation(f"session-{seed}-{number}", tuple(turns))


def draw_turns(rng: random.Random) -> int:
    """Draw a number of turns: geometric with the ShareGPT mean, at most `MAX_DRAWN_TURNS`."""
    turns = 1 + int(math.log(1.0 - rng.random()) / math.log(1.0 - 1.0 / SHAREGPT_TURNS))
    return min(turns, MAX_DRAWN_TURNS)


def draw_length(rng: random.Random, mean_tokens: float) -> int:
    """Draw a length in tokens, log-normal with this mean, at least 1."""
    return max(
        1, round(rng.lognormvariate(math.log(mean_tokens) - LENGTH_SIGMA**2 / 2, LENGTH_SIGMA))
    )


def draw_think_time(rng: random.Random, mean_s: float) -> float:
    """Draw an exponential think time in seconds; 0 for mean 0."""
    return rng.expovariate(1.0 / mean_s) if mean_s > 0 else 0.0
