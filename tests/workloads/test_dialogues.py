"""Records of data sets: every form, role and kind of reply is understood, and blank turns are left out."""

from datetime import UTC, datetime

import pytest

from vllm_pensieve.workloads.dialogues import Dialogue, read_dialogue
from vllm_pensieve.workloads.text import whole_characters


def said(*messages: tuple[str, object]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in messages]


HELLO = Dialogue(None, (("Hi", "Hello"),))


@pytest.mark.parametrize(
    "record",
    [
        {"id": "x", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"id": "x", "items": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"conversation": said(("user", "Hi"), ("assistant", "Hello"))},
        {"messages": said(("user", "Hi"), ("assistant", "Hello"))},
        {"id": "0", "data": ["Hi", "Hello"]},
        said(("Human", "Hi"), ("GPT", "Hello")),
        said(("USER", "Hi"), ("Assistant ", "Hello")),
        said(("observation", "Hi"), ("function-call", "Hello")),
        said(("tool_response", "Hi"), ("tool call", "Hello")),
        said(("prompter", "Hi"), ("assistant", "Hello")),
    ],
)  # fmt: skip
def test_every_form_of_a_record_says_the_same(record):
    assert read_dialogue(record) == HELLO


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ({"content": None, "reasoning_content": "hm", "tool_calls": None}, "hm"),
        ({"content": "", "reasoning": "hm"}, "hm"),
        ({"content": "so", "reasoning_content": "hm"}, "so"),
        ({"content": None, "tool_calls": [{"name": "look"}]}, '[{"name": "look"}]'),
        ({"content": "", "tool_calls": [{"name": "look"}]}, '[{"name": "look"}]'),
        ({"content": "so", "function_call": {"name": "look"}}, 'so\n{"name": "look"}'),
        ({"content": [{"type": "text", "text": "so"}, {"type": "x", "value": "on"}]}, "so\non"),
    ],
)
def test_thoughts_and_calls_of_tools_are_a_reply(reply, text):
    record = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", **reply}]}
    assert read_dialogue(record).turns == (("q", text),)


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([("user", ""), ("assistant", ""), ("user", "  "), ("assistant", "x")], ()),
        ([("user", "q"), ("assistant", " "), ("user", "r"), ("assistant", "s")], (("r", "s"),)),
        ([("user", "q"), ("assistant", ""), ("assistant", "s")], (("q", "s"),)),
        ([("user", "q"), ("assistant", "a"), ("user", " "), ("assistant", "b")], (("q", "a"),)),
        ([("user", "one"), ("user", "two"), ("assistant", "ok")], (("one\ntwo", "ok"),)),
        ([("assistant", "left"), ("user", "go on"), ("assistant", "ok")], (("go on", "ok"),)),
        ([("assistant", "x")], ()),
        ([], ()),
    ],
)
def test_blank_turns_and_what_has_no_other_side_are_left_out(messages, turns):
    assert read_dialogue(said(*messages)).turns == turns


def test_an_empty_list_of_calls_is_a_reply_that_says_nothing():
    empty = {"role": "assistant", "content": None, "tool_calls": []}
    (question,) = said(("user", "q"))
    assert read_dialogue([question, empty, *said(("user", "r"), ("assistant", "s"))]).turns == (
        ("r", "s"),
    )


def test_half_a_character_is_replaced_and_two_halves_are_joined():
    record = said(("system", "\ud83d"), ("user", "bad \ud83d half"), ("assistant", "\ud83d\ude00"))
    dialogue = read_dialogue(record)
    assert dialogue == Dialogue("\ufffd", (("bad \ufffd half", "\U0001f600"),))
    assert read_dialogue({"data": ["\ude00", "b"]}).turns == (("\ufffd", "b"),)
    assert whole_characters("é\ud83d\ud83d\ude00 \U0001f600") == "é\ufffd\U0001f600 \U0001f600"


def timed(*times: object) -> dict:
    roles = ("user", "assistant")
    return {
        "conversation": [
            {"role": roles[i % 2], "content": "x", "timestamp": time}
            for i, time in enumerate(times)
        ]
    }


def test_a_pause_is_from_a_reply_to_the_next_question():
    record = timed(1000, 1005.5, 1065.5, 1070, 1060, 1080)
    assert read_dialogue(record).pauses_s == (None, 60.0, 0.0)


@pytest.mark.parametrize(
    "times",
    [
        (None, "2023-04-09T00:00:10", None, "2023-04-09T00:01:40+00:00"),
        (None, 1_680_998_410, None, 1_680_998_500),
        (None, 1_680_998_410_000, None, 1_680_998_500_000),
        (None, datetime(2023, 4, 9, 0, 0, 10), None, datetime(2023, 4, 9, 0, 1, 40, tzinfo=UTC)),
    ],
)
def test_where_only_replies_have_times_a_pause_is_from_one_to_the_next(times):
    assert read_dialogue(timed(*times)).pauses_s == (None, 90.0)


def test_without_usable_times_there_are_no_pauses():
    assert read_dialogue(timed("soon", None, "later", True)).pauses_s == ()
