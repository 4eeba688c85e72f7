"""Plays requests into an engine: each when its time has come, and after the answer to its conversation's last one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vllm_pensieve.workloads.events import RequestEvent


class Engine(Protocol):
    """What is used of vLLM's LLMEngine."""

    def add_request(
        self, request_id: str, prompt: Any, params: Any, *, session_id: str | None
    ) -> Any: ...

    def step(self) -> Sequence[Any]: ...

    def has_unfinished_requests(self) -> bool: ...


@dataclass(frozen=True)
class Reply:
    """What came of one event. cached_tokens: of the prompt, found in the cache."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    text: str


def play(
    engine: Engine,
    events: Sequence[RequestEvent],
    parameters: Callable[[int], Any],
    tell: Callable[[int], None] = lambda done: None,
) -> list[Reply]:
    """Serve all events; return what came of each, in the order of `events`.

    parameters: the sampling parameters of the event of that number.
    tell: is called after each step with how many are done.
    """
    begun_s = time.monotonic()
    ahead = deque(sorted(range(len(events)), key=lambda number: events[number].time))
    queued: dict[str, deque[int]] = {}  # by conversation, whose first one is being served
    replies: dict[int, Reply] = {}

    def send(number: int) -> None:
        event = events[number]
        engine.add_request(
            str(number), event.prompt, parameters(number), session_id=event.conversation_id
        )

    while len(replies) < len(events):
        now_s = time.monotonic() - begun_s
        while ahead and events[ahead[0]].time <= now_s:
            number = ahead.popleft()
            conversation = queued.setdefault(events[number].conversation_id, deque())
            conversation.append(number)
            if len(conversation) == 1:
                send(number)
        if not engine.has_unfinished_requests():
            assert ahead, "the engine lost a request"
            time.sleep(max(0.0, events[ahead[0]].time - now_s))
            continue
        for output in engine.step():
            if not output.finished:
                continue
            number = int(output.request_id)
            replies[number] = _reply(output)
            conversation = queued[events[number].conversation_id]
            conversation.popleft()
            if conversation:
                send(conversation[0])
            else:
                del queued[events[number].conversation_id]
        tell(len(replies))
    return [replies[number] for number in range(len(events))]


def _reply(output: Any) -> Reply:
    completion = output.outputs[0]
    return Reply(
        len(output.prompt_token_ids),
        output.num_cached_tokens or 0,
        len(completion.token_ids),
        completion.text,
    )
