"""Replays conversations against one server: streaming chat requests, each turn after the reply to
the one before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm_pensieve.bench.exchanges import Exchange, text_digest
from vllm_pensieve.workloads.conversations import Conversation, Turn

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletionChunk

REQUEST_TIMEOUT_S = 900.0
WARM_UP_TEXT = "This comes before the measurement and shares no text with it."
WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Target:
    """The server's address (without a path), the model's served name, and the sampling seed."""

    url: str
    model: str
    seed: int


@dataclass(frozen=True)
class Replay:
    """What is to be sent: the conversations, how many at a time, and who hears of each finished
    request.
    """

    conversations: Sequence[Conversation]
    concurrency: int
    on_record: Callable[[Exchange], None]


async def warm_up(target: Target) -> None:
    """Send two turns of unrelated content, so that nothing lazy is left for the first measured
    request. Raises on failure.
    """
    async with _client(target) as client:
        turn = Turn(WARM_UP_TEXT, 0, WARM_UP_TOKENS, 0.0)
        messages: list[dict[str, str]] = []
        for _ in range(2):
            messages.append({"role": "user", "content": turn.text})
            _, reply = await _request(client, target, "warm-up", messages, turn)
            messages.append(reply.message())


async def replay(target: Target, plan: Replay) -> None:
    """Run all conversations, at most `plan.concurrency` at a time, in their order.

    One that comes after another begins when that has ended. A failure is recorded, not raised.
    """
    start = time.monotonic()
    slots = asyncio.Semaphore(plan.concurrency)
    ended = {conversation.session_id: asyncio.Event() for conversation in plan.conversations}

    async def one(conversation: Conversation, client: AsyncOpenAI) -> None:
        if conversation.after is not None:
            await ended[conversation.after].wait()
        async with slots:
            await _converse(client, target, conversation, start, plan.on_record)
        ended[conversation.session_id].set()

    async with _client(target) as client, asyncio.TaskGroup() as group:
        for conversation in plan.conversations:
            group.create_task(one(conversation, client))


async def _converse(
    client: AsyncOpenAI,
    target: Target,
    conversation: Conversation,
    start: float,
    on_record: Callable[[Exchange], None],
) -> None:
    """Send the turns of one conversation; after a failure the rest is recorded as not sent."""
    import httpx
    import openai

    # What breaks off in the middle of a stream, or is not JSON, comes as it is from below the client.
    failures = (openai.OpenAIError, httpx.HTTPError, OSError, ValueError, RequestFailed)

    messages: list[dict[str, str]] = []
    if conversation.system:
        messages.append({"role": "system", "content": conversation.system})
    failed_turn = 0
    computed: list[int] = []
    for number, turn in enumerate(conversation.turns, start=1):
        if failed_turn:
            error = f"not sent: turn {failed_turn} of this session failed"
            on_record(
                Exchange(conversation.session_id, number, time.monotonic() - start, error=error)
            )
            continue
        await asyncio.sleep(turn.think_time_s)
        messages.append({"role": "user", "content": turn.text})
        sent_s = time.monotonic() - start
        try:
            measured, reply = await _request(
                client, target, conversation.session_id, messages, turn
            )
            unmatched = len(computed) - common_length(computed, reply.prompt_token_ids)
            on_record(
                Exchange(
                    conversation.session_id, number, sent_s, unmatched_tokens=unmatched, **measured
                )
            )
            messages.append(reply.message())
            computed = reply.computed_token_ids
        except failures as error:
            failed_turn = number
            on_record(Exchange(conversation.session_id, number, sent_s, error=_describe(error)))


class RequestFailed(Exception):
    """The stream went without an error of the transport, yet not as asked."""


@dataclass
class Reply:
    """What came back, by channel, and the tokens it was computed from and generated as."""

    content: str = ""
    reasoning: str = ""
    prompt_token_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def take(self, chunk: ChatCompletionChunk) -> bool:
        """Add a piece of the stream; return whether it brought a token.

        Raises RequestFailed for a call of a tool, which this client has no answer to.
        """
        self.prompt_token_ids += getattr(chunk, "prompt_token_ids", None) or []
        if not chunk.choices:
            return False
        choice = chunk.choices[0]
        if choice.delta.tool_calls:
            raise RequestFailed(
                "the model called a tool; no tools are offered, and none can answer"
            )
        token_ids = getattr(choice, "token_ids", None) or []
        said = choice.delta.content or ""
        thought = getattr(choice.delta, "reasoning", None) or ""
        self.token_ids += token_ids
        self.content += said
        self.reasoning += thought
        return bool(token_ids or said or thought)

    def message(self) -> dict[str, str]:
        """The reply as the next turn sends it back; the chat template decides what of the thoughts stays."""
        thoughts = {"reasoning": self.reasoning} if self.reasoning else {}
        return {"role": "assistant", "content": self.content} | thoughts

    @property
    def computed_token_ids(self) -> list[int]:
        """Tokens whose KV there is after this turn: the last one was generated and never read."""
        return self.prompt_token_ids + self.token_ids[:-1]

    @property
    def digest(self) -> str:
        """SHA-256 of all channels; of the content alone where there is no other."""
        return text_digest("\0".join(filter(None, (self.reasoning, self.content))))


async def _request(
    client: AsyncOpenAI, target: Target, session_id: str, messages: list[dict[str, str]], turn: Turn
) -> tuple[dict[str, Any], Reply]:
    """Send one request; return the measured fields of its record, and the reply."""
    start = time.perf_counter()
    stream = await client.chat.completions.create(
        model=target.model,
        messages=messages,
        max_tokens=turn.output_tokens,
        temperature=0.0,
        seed=target.seed,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"session_id": session_id, "ignore_eos": True, "return_token_ids": True},
    )
    reply = Reply()
    ttft_s = None
    usage = None
    async for chunk in stream:
        if reply.take(chunk) and ttft_s is None:
            ttft_s = time.perf_counter() - start
        usage = chunk.usage or usage
    e2e_s = time.perf_counter() - start
    if usage is None:
        raise RequestFailed("the stream ended early, without its usage")
    if usage.completion_tokens != turn.output_tokens:
        raise RequestFailed(
            f"asked for {turn.output_tokens} output tokens, got {usage.completion_tokens}"
        )
    details = usage.prompt_tokens_details
    measured = {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": (details.cached_tokens or 0) if details else 0,
        "output_tokens": usage.completion_tokens,
        "ttft_s": e2e_s if ttft_s is None else ttft_s,
        "e2e_s": e2e_s,
        "output_sha256": reply.digest,
        "reasoning_only": bool(reply.reasoning and not reply.content),
    }
    return measured, reply


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many items the two begin with in common."""
    if list(second[: len(first)]) == list(first):
        return len(first)
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _client(target: Target) -> AsyncOpenAI:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    direct = DefaultAsyncHttpxClient(trust_env=False)
    return AsyncOpenAI(
        base_url=f"{target.url}/v1",
        api_key="none",
        max_retries=0,
        timeout=REQUEST_TIMEOUT_S,
        http_client=direct,
    )


def _describe(error: BaseException) -> str:
    cause = (
        error.__cause__ if str(error) in ("", "Connection error.") and error.__cause__ else error
    )
    return f"{type(error).__name__}: {cause}".splitlines()[0][:500]
