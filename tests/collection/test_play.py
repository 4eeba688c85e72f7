"""Requests reach the engine in time and in order."""

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_pensieve.collection.play import play
from vllm_pensieve.collection.virtual_time import VirtualTime
from vllm_pensieve.workloads.events import SINGLE, RequestEvent

STEP_S = 1.0


@dataclass
class OneByOne:
    """An engine that finishes a request after `steps` steps of a second each, all side by side."""

    steps: int = 3
    sent_s: dict[str, float] = field(default_factory=dict)
    sessions: dict[str, str | None] = field(default_factory=dict)
    _left: dict[str, int] = field(default_factory=dict)
    _begun_s: float = field(default_factory=time.monotonic)

    def add_request(
        self, request_id: str, prompt: Any, params: Any, *, session_id: str | None
    ) -> None:
        self.sent_s[prompt] = time.monotonic() - self._begun_s
        self.sessions[prompt] = session_id
        self._left[request_id] = self.steps

    def has_unfinished_requests(self) -> bool:
        return bool(self._left)

    def step(self) -> list[Any]:
        time.sleep(STEP_S)
        self._left = {name: left - 1 for name, left in self._left.items()}
        done = [name for name, left in self._left.items() if not left]
        for name in done:
            del self._left[name]
        outputs = [SimpleNamespace(token_ids=[1, 2], text="two")]
        return [
            SimpleNamespace(
                request_id=name,
                finished=True,
                prompt_token_ids=[0] * (10 + int(name)),
                num_cached_tokens=None,
                outputs=outputs,
            )
            for name in done
        ]


def event(time_s: float, prompt: str, conversation: str | None = None) -> RequestEvent:
    return RequestEvent(time_s, conversation or prompt, 0, SINGLE, prompt)


def served(*events: RequestEvent) -> tuple[OneByOne, list[Any]]:
    with VirtualTime():
        engine = OneByOne()
        return engine, play(engine, events, lambda number: None)


def test_a_request_is_sent_when_its_time_has_come():
    engine, _ = served(event(100.0, "b"), event(2.0, "a"))
    assert engine.sent_s == {"a": pytest.approx(2.0, abs=0.5), "b": pytest.approx(100.0, abs=0.5)}


def test_while_the_engine_is_busy_requests_are_sent_after_the_step():
    engine, _ = served(event(0.0, "a"), event(0.5, "b"), event(1.5, "c"))
    assert [round(s) for s in engine.sent_s.values()] == [0, 1, 2]


def test_a_turn_waits_until_the_one_before_it_is_answered():
    engine, _ = served(event(0.0, "one", "talk"), event(1.0, "two", "talk"), event(1.0, "other"))
    assert [round(engine.sent_s[prompt]) for prompt in ("one", "other", "two")] == [0, 1, 3]
    assert engine.sessions == {"one": "talk", "two": "talk", "other": "other"}


def test_replies_come_in_the_order_of_the_events():
    _, replies = served(event(9.0, "a"), event(0.0, "b"), event(3.0, "c"))
    assert [reply.prompt_tokens for reply in replies] == [10, 11, 12]
    assert {(reply.output_tokens, reply.cached_tokens, reply.text) for reply in replies} == {
        (2, 0, "two")
    }


def test_progress_is_told():
    told: list[int] = []
    with VirtualTime():
        play(OneByOne(), [event(0.0, "a"), event(5.0, "b")], lambda number: None, told.append)
    assert told == [0, 0, 1, 1, 1, 2]
