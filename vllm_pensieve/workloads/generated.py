"""Requests made up from a seed, no download: questions over one instruction, documents to summarise, and chats."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice

from vllm_pensieve.workloads.conversations import (
    SHAREGPT_INPUT_TOKENS,
    SHAREGPT_OUTPUT_TOKENS,
    draw_length,
    draw_turns,
)
from vllm_pensieve.workloads.dialogues import Dialogue
from vllm_pensieve.workloads.events import (
    SINGLE,
    ClientRequests,
    ClientSpec,
    RequestEvent,
    arrival_times,
)
from vllm_pensieve.workloads.text import write_text
from vllm_pensieve.workloads.tokens import TokenCounter

INSTRUCTION_TOKENS = 256
QUESTION_TOKENS = 48
DOCUMENT_TOKENS = 1500
"""Lengths: of the instruction exactly, of questions and documents on average."""


def qa_requests(spec: ClientSpec, tokens: TokenCounter) -> ClientRequests:
    """Short questions, each after the same instruction."""
    rng = random.Random(f"{spec.seed}/qa")
    instruction = write_text(rng, tokens.characters(INSTRUCTION_TOKENS))

    def prompt() -> str:
        question = write_text(rng, tokens.characters(draw_length(rng, QUESTION_TOKENS)))
        return f"{instruction}\nQuestion: {question}\nAnswer:"

    return _requests("qa", spec, tokens, prompt)


def summarization_requests(spec: ClientSpec, tokens: TokenCounter) -> ClientRequests:
    """Long documents that share a line of instruction."""
    rng = random.Random(f"{spec.seed}/summarization")

    def prompt() -> str:
        document = write_text(rng, tokens.characters(draw_length(rng, DOCUMENT_TOKENS)))
        return f"Summarize this document:\n{document}\nSummary:"

    return _requests("summarization", spec, tokens, prompt)


def _requests(
    name: str, spec: ClientSpec, tokens: TokenCounter, prompt: Callable[[], str]
) -> ClientRequests:
    """One request a conversation."""
    events = []
    too_long = 0
    for number, time_s in enumerate(islice(arrival_times(spec), spec.conversations)):
        text = prompt()
        if tokens.count(text) > spec.max_prompt_tokens:
            too_long += 1
        else:
            events.append(RequestEvent(time_s, f"{name}-{number}", 0, SINGLE, text))
    return ClientRequests(tuple(events), too_long)


def generated_chats(
    conversations: int, seed: int, tokens: TokenCounter, min_turns: int = 1
) -> list[Dialogue]:
    """Chats with as many turns, and messages and replies as long, as ShareGPT's on average.

    With `min_turns` they are as those of ShareGPT that have as many: numbers of turns are drawn from a
    geometric distribution, which has no memory, so those that are left over follow the same.
    """
    dialogues = []
    for number in range(conversations):
        rng = random.Random(f"{seed}/chat/{number}")

        def text(mean_tokens: int, rng: random.Random = rng) -> str:
            return write_text(rng, tokens.characters(draw_length(rng, mean_tokens)))

        turns = tuple(
            (text(SHAREGPT_INPUT_TOKENS), text(SHAREGPT_OUTPUT_TOKENS))
            for _ in range(min_turns - 1 + draw_turns(rng))
        )
        dialogues.append(Dialogue(None, turns))
    return dialogues
