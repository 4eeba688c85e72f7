"""From options to a plan: workload presets, sizes that fit, and what is refused."""

from pathlib import Path

import pytest

from vllm_pensieve.bench.options import make_plan
from vllm_pensieve.bench.plan import server_arguments
from vllm_pensieve.bench.run_options import CompareOptions
from vllm_pensieve.errors import UsageError
from vllm_pensieve.modes import MODES


@pytest.fixture(autouse=True)
def no_model_is_made(monkeypatch):
    monkeypatch.setattr("vllm_pensieve.bench.options.resolve_model", lambda name: f"/models/{name}")


def options(**changed) -> CompareOptions:
    fields = dict.fromkeys(CompareOptions.__dataclass_fields__)
    fields |= {
        "device": "auto",
        "model": "demo",
        "modes": "vllm,pensieve",
        "workload": "demo",
        "repeat": 1,
        "seed": 0,
    }
    return CompareOptions(**(fields | {"out": Path("never-made"), "server_options": ()} | changed))


def test_without_options_it_is_the_demonstration():
    plan = make_plan(options())
    assert plan.workload["history_tokens"] == 8192
    assert plan.max_model_len == 9216
    assert plan.requests == 14


def test_given_options_replace_the_presets_own():
    plan = make_plan(options(workload="chat", sessions=3, turns=2, output_tokens=7))
    assert [len(conversation.turns) for conversation in plan.conversations] == [2, 2, 2]
    assert {turn.output_tokens for c in plan.conversations for turn in c.turns} == {7}


def test_the_users_server_options_come_last():
    plan = make_plan(options(server_options=("--dtype", "float32"), kv_cache_gib=0.25, port=None))
    arguments = server_arguments(plan, MODES["vllm"])
    assert arguments[-3:] == ("--no-enable-prefix-caching", "--dtype", "float32")
    assert arguments[arguments.index("--kv-cache-memory-bytes") + 1] == str(1 << 28)
    assert arguments[arguments.index("--model") + 1] == "/models/demo"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"workload": "dreams"}, "unknown workload 'dreams'; choose one of: demo, chat, documents"),
        ({"max_model_len": 4096}, "grows to about 8922 tokens, the context is 4096"),
        ({"history_tokens": 40_000}, "the context is 32768"),
        ({"dataset": Path("x"), "history_tokens": 9}, "--history-tokens is for generated"),
        ({"dataset": Path("absent.json")}, "absent.json: cannot be read"),
        ({"out": Path(__file__)}, "is a file; name a folder"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(changed, message):
    with pytest.raises(UsageError, match=message):
        make_plan(options(**changed))
    assert not Path("never-made").exists()


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"has no config\.json"):
        make_plan(options(model=str(tmp_path)))


@pytest.fixture
def gpt2(tmp_path):
    """A folder that says it is a GPT-2, with a tokenizer and no weights."""
    from vllm_pensieve.testing.models import save_tokenizer

    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_positions": 1024}')
    save_tokenizer(tmp_path)
    return str(tmp_path)


def test_conversations_longer_than_the_models_context_are_refused_with_the_number(gpt2):
    with pytest.raises(UsageError, match=r"grows to about \d+ tokens, the context is 1024"):
        make_plan(options(model=gpt2))


def test_a_models_context_is_not_exceeded_by_rounding_up(gpt2):
    plan = make_plan(options(model=gpt2, history_tokens=500, turns=2, output_tokens=8))
    assert plan.max_model_len == 1024


def test_a_model_without_a_chat_template_gets_one_and_the_users_wins(gpt2):
    plan = make_plan(
        options(
            model=gpt2,
            history_tokens=100,
            turns=2,
            output_tokens=8,
            server_options=("--chat-template", "mine.jinja"),
        )
    )
    arguments = server_arguments(plan, MODES["vllm"])
    first = arguments.index("--chat-template")
    assert arguments[first + 1].startswith("{% for m in messages %}")
    assert arguments[-2:] == ("--chat-template", "mine.jinja")
