"""The benchmark on ShareGPT: which conversations are taken, how much of them, and what is refused."""

import json
import sys
from pathlib import Path

import pytest

from vllm_pensieve.bench.sharegpt import ShareGptOptions, plan_sharegpt
from vllm_pensieve.errors import UsageError
from vllm_pensieve.kv_shape import kv_shape
from vllm_pensieve.workloads.tokens import TokenCounter

SHARED = Path(__file__).parents[3] / "shared" / "data"
GIB = 1 << 30


@pytest.fixture(autouse=True)
def no_model_is_made(monkeypatch):
    monkeypatch.setattr("vllm_pensieve.bench.options.resolve_model", lambda name: f"/models/{name}")
    monkeypatch.delenv("MAX_NEW_TOKENS", raising=False)


@pytest.fixture
def chats(tmp_path) -> Path:
    """Eight conversations of 1 to 8 turns, each message 10 characters long and each reply 20."""
    records = [
        {
            "conversations": [
                {"from": who, "value": f"{turns}.{turn}".ljust(length, "x")}
                for turn in range(turns)
                for who, length in (("human", 10), ("gpt", 20))
            ]
        }
        for turns in range(1, 9)
    ]
    path = tmp_path / "chats.json"
    path.write_text(json.dumps(records))
    return path


def options(dataset: object, **changed) -> ShareGptOptions:
    fields = {
        "model": "demo",
        "modes": "vllm,pensieve",
        "dataset": str(dataset),
        "num_conversations": 20,
        "min_turns": 1,
        "max_turns": None,
        "users": 4,
        "request_interval_s": 1.0,
        "max_new_tokens": None,
        "gpu_cache_gb": None,
        "cpu_cache_gb": None,
        "repeat": 1,
        "seed": 0,
        "out": Path("never-made"),
    }
    return ShareGptOptions(**(fields | changed))


def turns(plan) -> list[int]:
    return sorted(len(conversation.turns) for conversation in plan.conversations)


def test_conversations_with_fewer_turns_are_left_out_and_longer_ones_cut(chats):
    plan = plan_sharegpt(options(chats, min_turns=3, max_turns=6))
    assert turns(plan) == [3, 4, 5, 6, 6, 6]
    assert plan.workload["records_with_too_few_turns"] == 2
    assert plan.workload["turns_cut_to_fit"] == 0
    assert plan.workload["conversations_asked_for"] == 20
    assert turns(plan_sharegpt(options(chats, num_conversations=2))) != [1, 1]


def test_replies_are_as_long_as_recorded_up_to_the_cap(chats, monkeypatch):
    def replies(**changed) -> set[int]:
        plan = plan_sharegpt(options(chats, **changed))
        return {turn.output_tokens for c in plan.conversations for turn in c.turns}

    assert replies() == {20}
    assert replies(max_new_tokens=100) == {20}
    assert replies(max_new_tokens=7) == {7}
    monkeypatch.setenv("MAX_NEW_TOKENS", "5")
    assert replies() == {5}
    assert replies(max_new_tokens=7) == {7}


def test_memory_is_a_part_of_what_the_conversations_at_a_time_need(chats):
    eight = {"min_turns": 8}  # one conversation of 240 tokens
    assert plan_sharegpt(options(chats, **eight)).workload["host_cache_gib"] == pytest.approx(
        240 * kv_shape("demo").bytes_per_token / GIB, abs=1e-3
    )
    plan = plan_sharegpt(options(chats, gpu_cache_gb=1.0, cpu_cache_gb=0.1))
    assert plan.workload["kv_cache_gib"] == pytest.approx(1e9 / GIB, abs=1e-3)
    assert plan.workload["host_cache_gib"] == pytest.approx(1e8 / GIB, abs=1e-3)


def test_generated_conversations_have_the_turns_asked_for():
    plan = plan_sharegpt(options("generated", min_turns=6, max_turns=7, num_conversations=12))
    assert set(turns(plan)) == {6, 7}
    assert len(plan.conversations) == 12


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"min_turns": 5, "max_turns": 4}, "--min-turns 5 is above --max-turns 4"),
        ({"min_turns": 9}, "none of its 8 records has 9 turns; the longest has 8"),
        ({"min_turns": 0}, "--min-turns 0: give"),
        ({"max_turns": 0}, "--max-turns 0: give"),
        ({"num_conversations": 0}, "--num-conversations 0: give"),
        ({"users": 0}, "--users 0: give"),
        ({"request_interval_s": -1.0}, "--request-interval -1: give"),
        ({"max_new_tokens": -3}, "--max-new-tokens -3: give"),
        ({"max_model_len": 256, "min_turns": 5}, "has 5 turns that fit the context"),
        ({"cpu_cache_gb": 1.0, "modes": "vllm"}, "none of the modes vllm uses host memory"),
        ({"sheet": Path("nowhere/sheet.md")}, "its folder does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(chats, changed, message):
    with pytest.raises(UsageError, match=message):
        plan_sharegpt(options(chats, **changed))
    assert not Path("never-made").exists()


def test_a_dataset_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"absent\.json: cannot be read: No such file"):
        plan_sharegpt(options("absent.json"))


@pytest.mark.parametrize("name", ["sharegpt", "sharegt"])
def test_sharegpt_is_on_the_hub_under_either_spelling(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UsageError,
        match="ShareGPT_Vicuna_unfiltered' is not a file here; as a data set",
    ):
        plan_sharegpt(options(name))


def test_the_bare_command_takes_generated_texts_where_there_is_no_hub_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    plan = plan_sharegpt(options("sharegt", generated_otherwise=True, min_turns=5, max_turns=6))
    assert set(turns(plan)) <= {5, 6}
    assert plan.workload["dataset"] == "generated"
    assert "ShareGPT is not available here" in plan.notes[0]
    with pytest.raises(UsageError, match=r"nowhere\.json"):
        plan_sharegpt(options("nowhere.json", generated_otherwise=True))


def test_real_conversations_are_taken_within_the_bounds():
    path = SHARED / "sharegpt" / "fastchat_dummy_conversation.json.gz"
    if not path.exists():
        pytest.skip(f"no {path}: the public data of ../shared is not part of the repository")
    plan = plan_sharegpt(options(path, min_turns=2, max_turns=2, max_new_tokens=16))
    assert turns(plan) == [2] * 20
    assert {turn.output_tokens <= 16 for c in plan.conversations for turn in c.turns} == {True}


def test_conversations_are_cut_to_the_models_context(chats, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 300}')
    counter = TokenCounter(len, 1)
    monkeypatch.setattr("vllm_pensieve.bench.sharegpt.token_counter", lambda model: counter)
    monkeypatch.setattr("vllm_pensieve.bench.options.chat_options", lambda model: ())
    memory = {"gpu_cache_gb": 1.0, "cpu_cache_gb": 1.0}
    plan = plan_sharegpt(options(chats, model=str(tmp_path), **memory))
    assert turns(plan) == [1, 2, 3, 4, 4, 4, 4, 4]
    assert plan.workload["turns_cut_to_fit"] == 1 + 2 + 3 + 4
    assert plan.max_model_len == 300
