"""Histories that a client rewrites between turns: right answers, and what changed is computed as new, not recovered."""

import random

import pytest

pytestmark = pytest.mark.engine

TURNS = 5
STRIP_THOUGHTS = """
{%- for m in messages -%}
{%- if m.role == 'assistant' and not loop.last and '</think>' in m.content -%}
<A>{{ m.content.split('</think>')[-1] }}
{% elif m.role == 'assistant' -%}
<A>{{ m.content }}
{% else -%}
<{{ m.role[0]|upper }}>{{ m.content }}
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<A>{%- endif -%}
"""


def text(characters: int, seed: object) -> str:
    from vllm_pensieve.workloads.text import write_text

    return write_text(random.Random(str(seed)), characters)


def thoughts_left_out(turn: int) -> list[dict[str, str]]:
    """Each reply comes back without what was thought, as many chat templates have it."""
    messages = []
    for number in range(turn + 1):
        messages.append({"role": "user", "content": text(90, f"question {number}")})
        thought = text(200, f"thought {number}")
        messages.append(
            {"role": "assistant", "content": f"<think>{thought}</think>Answer {number}."}
        )
    return messages[:-1]


def tasks_ticked_off(turn: int) -> list[dict[str, str]]:
    """A list at the end of the system text changes with every turn."""
    boxes = " ".join(f"[{'x' if number < turn else ' '}] task {number}" for number in range(TURNS))
    system = {"role": "system", "content": f"{text(500, 'rules')}\n{boxes}"}
    return [system, *thoughts_left_out(turn)]


def counter_at_the_head(turn: int) -> list[dict[str, str]]:
    """A number in the first line changes with every turn."""
    counted = f"<total_tokens>{1000 * turn:05}</total_tokens>"
    system = {"role": "system", "content": f"{counted}{text(300, 'rules')}"}
    return [system, *thoughts_left_out(turn)]


@pytest.fixture(scope="module")
def served(serve):
    """Memory for a part of all the prompts, and a host tier."""
    return serve(blocks=66, host_blocks=30)


def tokens_of(served, messages: list[dict[str, str]]) -> list[int]:
    tokenizer = served.llm.get_tokenizer()
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=STRIP_THOUGHTS, add_generation_prompt=True, tokenize=False
    )
    return tokenizer.encode(rendered, add_special_tokens=False)


def common(a: list[int], b: list[int]) -> int:
    return next(
        (i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]),
        min(len(a), len(b)),
    )


@pytest.mark.parametrize("rewritten", [thoughts_left_out, tasks_ticked_off, counter_at_the_head])
def test_what_was_rewritten_is_new_and_the_answers_are_right(served, assert_equal, rewritten):
    name = rewritten.__name__
    known: list[list[int]] = []
    for turn in range(TURNS):
        prompt = tokens_of(served, rewritten(turn))
        before = served.prompt_tokens
        request = served.add(prompt, 8, session_id=name)
        output = served.drain()[request]
        assert_equal(output, prompt)
        taken = {source: count - before[source] for source, count in served.prompt_tokens.items()}
        shared = max((common(prompt, earlier) for earlier in known), default=0) // 32 * 32
        assert taken["resident"] + taken["swapped"] + taken["recovered"] <= shared
        assert taken["new"] >= len(prompt) - shared
        assert taken["recovered"] == 0
        assert sum(taken.values()) == len(prompt)
        if turn:
            assert (shared == 0) == (rewritten is counter_at_the_head)
        known.append(prompt + list(output.outputs[0].token_ids))
    served.assert_nothing_left()


def test_a_session_whose_history_is_rewritten_needs_a_name(served):
    table = served.scheduler.sessions
    before = len(table)
    for turn in range(3):
        served.add(tokens_of(served, tasks_ticked_off(turn)), 8, session_id="named")
        served.drain()
    assert len(table) == before + 1
    for turn in range(3):
        system, *rest = tasks_ticked_off(turn)
        other = {"role": "system", "content": f"Another user. {system['content']}"}
        served.serve([tokens_of(served, [other, *rest])])
    assert len(table) == before + 4
    table.check_integrity()
