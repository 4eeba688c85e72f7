"""What a simulated client sends, and when: one event a request."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

SINGLE = "single"
MULTI = "multi"


@dataclass(frozen=True)
class RequestEvent:
    """One request.

    time: s after the client began.
    turn_index: from 0; the prompt of a later turn begins with that of the one before it.
    mode: `single` or `multi`, whether the conversation has one turn or may have more.
    reply: what was answered when the conversation was recorded; None if it was not. Only its length is used.
    """

    time: float
    conversation_id: str
    turn_index: int
    mode: str
    prompt: str
    reply: str | None = None


@dataclass(frozen=True)
class ClientSpec:
    """How a client chooses and times its requests.

    conversations: at most.
    requests_per_s: rate of new conversations, a Poisson process.
    think_time_s: mean pause between two turns of one conversation, exponential.
    max_prompt_tokens: longer prompts are not sent, and end their conversation.
    recorded_pauses: where the data says how long people took between turns, they take as long.
    """

    conversations: int
    requests_per_s: float
    think_time_s: float
    max_prompt_tokens: int
    seed: int
    recorded_pauses: bool = False


@dataclass(frozen=True)
class ClientRequests:
    """A client's events in order of time.

    too_long: turns left out because their prompt, or an earlier one of the conversation, was too long.
    """

    events: tuple[RequestEvent, ...]
    too_long: int = 0


def arrival_times(spec: ClientSpec) -> Iterator[float]:
    """Times of new conversations in s, without end; the same seed gives the same times."""
    rng = random.Random(f"{spec.seed}/arrivals")
    now_s = 0.0
    while True:
        now_s += rng.expovariate(spec.requests_per_s)
        yield now_s


def in_order(events: Sequence[RequestEvent]) -> tuple[RequestEvent, ...]:
    """By time; those of one time stay in the order they came in."""
    return tuple(sorted(events, key=lambda event: event.time))


def write_events(events: Sequence[RequestEvent], file: IO[bytes]) -> None:
    """One JSON object a line."""
    import msgspec

    for event in events:
        file.write(msgspec.json.encode(event) + b"\n")


TokenCount = Callable[[str], int]
