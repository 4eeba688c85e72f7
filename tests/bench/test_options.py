"""From options to a plan: workload presets, sizes that fit, and what is refused."""

from pathlib import Path

import pytest

from vllm_pensieve.bench.modes import MODES
from vllm_pensieve.bench.options import CompareOptions, make_plan
from vllm_pensieve.bench.plan import server_arguments
from vllm_pensieve.workloads.errors import UsageError


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
        ({"workload": "dreams"}, "unknown workload 'dreams'; there are: demo, chat, documents"),
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
