"""What the demonstration is going to show, decided before an engine is made."""

from pathlib import Path

import pytest

from vllm_pensieve.bench.guide_demonstration import QUESTIONS, plan_demonstration
from vllm_pensieve.bench.users import UsersOptions
from vllm_pensieve.errors import UsageError


@pytest.fixture(autouse=True)
def no_length_of_the_environment(monkeypatch):
    monkeypatch.delenv("MAX_NEW_TOKENS", raising=False)


def options(**changed) -> UsersOptions:
    fields = {"preset": "guide", "modes": "pensieve", "out": Path("never-made")}
    return UsersOptions(**(fields | changed))


def test_three_sessions_ask_the_same_questions_each_about_a_text_of_its_own():
    plan = plan_demonstration(options())
    assert [own.session_id for own in plan.conversations] == ["session_1", "session_2", "session_3"]
    texts = set()
    for own in plan.conversations:
        text, _, first = own.turns[0].text.rpartition("\n")
        assert (first, *(turn.text for turn in own.turns[1:])) == QUESTIONS
        texts.add(text)
    assert len(texts) == 3
    assert (plan.options.max_new_tokens, plan.pause_s, plan.history_tokens) == (32, 0.5, 1500)


def test_memory_for_a_part_of_the_sessions_makes_something_leave_it():
    plan = plan_demonstration(options())
    needed_gb = sum(own.context_tokens(0) for own in plan.conversations) * 8192 / 1e9
    assert 0 < plan.options.gpu_cache_gb < needed_gb
    assert plan.options.cpu_cache_gb > 0


def test_the_stateless_mode_has_no_host_memory():
    assert plan_demonstration(options(modes="vllm")).options.cpu_cache_gb == 0


def test_turns_fit_what_the_server_can_hold():
    plan = plan_demonstration(options(server_options=("--max-model-len", "1024")))
    assert len(plan.conversations[0].turns) >= 5
    assert "--max-model-len 1024 holds 1,024 tokens" in plan.notes[0]
    with pytest.raises(UsageError, match="one turn takes about"):
        plan_demonstration(options(max_new_tokens=1024, server_options=("--max-model-len=1024",)))


def test_the_same_can_be_served_with_the_command_that_is_told():
    plan = plan_demonstration(options(gpu_cache_gb=0.5, cpu_cache_gb=1.073741824))
    assert plan.serve_command == (
        "pensieve serve demo --kv-cache-memory-bytes 500000000 --host-cache-gib 1"
    )
