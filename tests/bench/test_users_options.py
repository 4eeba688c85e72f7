"""The benchmark of users: what its options mean, how much memory there is, and what is refused."""

import math
from pathlib import Path

import pytest

from vllm_pensieve.bench import guide_demonstration, users
from vllm_pensieve.bench.guide_demonstration import plan_demonstration
from vllm_pensieve.bench.plan import server_arguments, server_command
from vllm_pensieve.bench.users import PRESETS, UsersOptions, plan_users
from vllm_pensieve.errors import UsageError
from vllm_pensieve.kv_shape import kv_shape
from vllm_pensieve.modes import MODES
from vllm_pensieve.workloads.tokens import TokenCounter

GIB = 1 << 30


@pytest.fixture(autouse=True)
def no_model_is_made(monkeypatch):
    monkeypatch.setattr("vllm_pensieve.bench.options.resolve_model", lambda name: f"/models/{name}")
    monkeypatch.delenv("MAX_NEW_TOKENS", raising=False)


def options(**changed) -> UsersOptions:
    fields = {"model": "demo", "modes": "vllm,pensieve", "preset": "fast", "repeat": 1, "seed": 0}
    return UsersOptions(**(fields | {"out": Path("never-made")} | changed))


def test_the_preset_gives_what_is_not_given():
    preset = PRESETS["stress"]
    plan = plan_users(options(preset="stress", users=4))
    # Two HOT users with three conversations, a WARM one with two, a COLD one with one.
    assert (len(plan.conversations), plan.concurrency) == (9, 4)
    assert {len(conversation.turns) for conversation in plan.conversations} == {preset.turns}
    assert plan.conversations[0].turns[0].input_tokens == preset.history_tokens + 38
    assert plan.conversations[0].turns[1].output_tokens == preset.max_new_tokens


def test_given_options_replace_the_presets_own():
    plan = plan_users(
        options(users=3, turns=2, history_tokens=0, max_new_tokens=5, request_interval_s=8.0)
    )
    assert plan.requests == (3 + 2 + 1) * 2
    tokens = {(t.input_tokens, t.output_tokens) for c in plan.conversations for t in c.turns}
    assert tokens == {(38, 5)}
    assert [plan.classes[own.session_id] for own in plan.conversations] == [
        *("HOT", "WARM", "COLD"),
        *("HOT", "WARM"),
        "HOT",
    ]
    begun = set()
    for own in plan.conversations:  # nobody waits for one that comes later
        assert own.after is None or own.after in begun
        begun.add(own.session_id)
    assert [user["pause_s"] for user in plan.workload["users"]] == pytest.approx([2.4, 8.0, 20.0])
    assert plan.workload["users"][0] | {"sessions": [], "pause_s": 0} == {
        "sessions": [],
        "class": "HOT",
        "meaning": "Frequent",
        "pause_s": 0,
        "turns": 6,
        "input_tokens": 3 * 76,
        "output_tokens": 30,
    }


def test_the_length_of_replies_may_stand_in_the_environment(monkeypatch):
    monkeypatch.setenv("MAX_NEW_TOKENS", "9")
    assert plan_users(options()).conversations[0].turns[0].output_tokens == 9
    assert plan_users(options(max_new_tokens=5)).conversations[0].turns[0].output_tokens == 5
    monkeypatch.setenv("MAX_NEW_TOKENS", "many")
    with pytest.raises(UsageError, match="MAX_NEW_TOKENS='many'; allowed: a whole number"):
        plan_users(options())


def test_memory_is_given_in_gb_of_a_billion_bytes():
    plan = plan_users(options(gpu_cache_gb=0.5, cpu_cache_gb=2.0))
    arguments = server_arguments(plan, MODES["vllm"])
    asked = int(arguments[arguments.index("--kv-cache-memory-bytes") + 1])
    assert asked == pytest.approx(500_000_000, rel=1e-3)
    assert plan.workload["host_cache_gib"] * GIB == pytest.approx(2e9, rel=1e-3)
    (pensieve,) = (mode for mode in plan.modes if mode.name == "pensieve")
    assert pensieve.pensieve == {"host_cache_gib": plan.workload["host_cache_gib"]}


def test_without_memory_given_there_is_the_presets_part_of_the_working_set():
    preset = PRESETS["stress"]
    plan = plan_users(options(preset="stress"))
    own = plan.conversations[0]
    assert {other.context_tokens(0) for other in plan.conversations} == {own.context_tokens(0)}
    tokens = preset.users * own.context_tokens(0)
    working_set_gib = tokens * kv_shape("demo").bytes_per_token / GIB
    expected = (preset.memory.gpu * working_set_gib, preset.memory.cpu * working_set_gib)
    found = (plan.workload["kv_cache_gib"], plan.workload["host_cache_gib"])
    assert found == pytest.approx(expected, abs=1e-3)


def test_the_longest_conversation_always_fits_into_the_memory_that_is_chosen():
    plan = plan_users(options(users=1))
    assert plan.kv_cache_gib * GIB > plan.max_model_len * kv_shape("demo").bytes_per_token


def test_modes_without_host_memory_get_none():
    assert plan_users(options(modes="vllm,vllm-apc")).workload["host_cache_gib"] is None
    assert plan_users(options(cpu_cache_gb=0.0)).workload["host_cache_gib"] is None


def test_what_is_compared_with_host_memory_needs_the_option_as_well():
    assert plan_users(options(modes="pensieve-no-swap")).workload["host_cache_gib"] > 0


def test_the_servers_get_the_environment_of_the_device(monkeypatch):
    monkeypatch.setattr(
        "vllm_pensieve.bench.options.device_environment",
        lambda device, environment: {**environment, "CUDA_VISIBLE_DEVICES": device[-1]},
    )
    plan = plan_users(options(device="cuda:3"))
    assert server_command(plan, MODES["vllm"], 0).environment["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"preset": "slow"}, "--preset 'slow' is unknown; choose one of: fast, stress"),
        ({"users": 0}, "--users 0: give a whole number from 1 to 10,000"),
        ({"turns": -1}, "--turns -1: give a whole number"),
        ({"turns": 2**40}, "--turns 1099511627776: give"),
        ({"max_new_tokens": 0}, "--max-new-tokens 0: give"),
        ({"history_tokens": -1}, "--history-tokens -1: give"),
        (
            {"max_new_tokens": 40_000},
            "one turn takes about 40086 tokens, the context of demo holds 32768; use a smaller",
        ),
        ({"request_interval_s": -0.1}, "--request-interval -0.1: give a number from 0"),
        ({"request_interval_s": math.nan}, "--request-interval nan: give"),
        ({"gpu_cache_gb": 0.0}, "--gpu-cache 0: give a number above 0"),
        ({"gpu_cache_gb": math.inf}, "--gpu-cache inf: give"),
        ({"cpu_cache_gb": -1.0}, "--cpu-cache -1: give a number from 0"),
        ({"cpu_cache_gb": 1.0, "modes": "vllm,vllm-apc"}, "none of the modes .* uses host memory"),
        ({"cpu_cache_gb": 0.0, "modes": "vllm-offload"}, "no host memory for vllm-offload"),
        ({"modes": "vllm,fast"}, "unknown mode fast"),
        ({"repeat": 0}, "--repeat 0: give"),
        ({"seed": -1}, "--seed -1: give"),
        ({"device": "tpu"}, "--device 'tpu' is unknown"),
        ({"out": Path(__file__)}, "is a file; name a folder"),
        ({"sheet": Path(__file__).parent}, "is a folder; name a file"),
        ({"sheet": Path("nowhere/sheet.md")}, "nowhere/sheet.md: its folder does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(changed, message):
    with pytest.raises(UsageError, match=message):
        plan_users(options(**changed))
    assert not Path("never-made").exists()


def test_a_sheet_may_lie_in_the_folder_that_is_made_for_the_results(tmp_path):
    out = tmp_path / "new"
    assert plan_users(options(out=out, sheet=out / "sheet.md")).sheet == out / "sheet.md"


def test_turns_come_before_the_text_when_the_context_is_short():
    """The demo model's 32,768 tokens: nothing is cut until they are full, then the text, then the turns."""
    whole = plan_users(options(turns=10, max_new_tokens=32))
    assert (whole.workload["turns"], whole.notes) == (10, ())
    text = plan_users(options(turns=10, history_tokens=40_000, max_new_tokens=32))
    assert text.workload["turns"] == 10
    assert text.workload["history_tokens"] == 32_768 - 16 - 10 * (38 + 32 + 32)
    assert text.max_model_len == 32_768
    assert "not 10 turns after a text of 40,000 tokens" in text.notes[0]
    turns = plan_users(options(turns=10, max_new_tokens=5000))
    assert (turns.workload["turns"], turns.workload["history_tokens"]) == (6, 1500)
    assert turns.workload["notes"] == list(turns.notes)
    assert "conversations of 6 turns after a text of 1,500 tokens, not 10" in turns.notes[0]


def test_conversations_fit_the_context_and_the_kv_memory_that_are_given():
    by_option = plan_users(options(server_options=("--max-model-len", "1024")))
    assert max(own.context_tokens(16) for own in by_option.conversations) <= 1024
    assert "--max-model-len 1024 holds 1,024 tokens" in by_option.notes[0]
    by_memory = plan_users(options(gpu_cache_gb=1024 * kv_shape("demo").bytes_per_token / 1e9))
    assert by_memory.max_model_len <= 1024 - 2 * 32
    assert "KV memory of 0.00839 GB holds 960 tokens" in by_memory.notes[0]


def test_a_model_whose_kv_cannot_be_told_needs_its_memory_given(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(
        "vllm_pensieve.bench.users.token_counter", lambda model: TokenCounter(len, 1)
    )
    with pytest.raises(UsageError, match="give --gpu-cache and --cpu-cache"):
        plan_users(options(model=str(tmp_path)))
    plan = plan_users(options(model=str(tmp_path), gpu_cache_gb=1.0, cpu_cache_gb=0.0))
    assert plan.workload["kv_cache_gib"] == pytest.approx(1e9 / GIB)


@pytest.mark.parametrize(
    ("server_options", "gpu", "cpu"),
    [
        (("--dtype", "bfloat16"), 1, 1),
        (("--dtype", "auto"), 1, 1),
        (("--dtype=float32",), 2, 2),
        (("--dtype", "float32", "--dtype", "half"), 1, 1),
        (("--dtype", "float", "--tensor-parallel-size", "2"), 1, 2),
    ],
)
def test_memory_follows_the_number_format_and_the_workers(server_options, gpu, cpu):
    """KV memory is a worker's, host memory that of all workers."""
    plain = plan_users(options()).workload
    plan = plan_users(options(server_options=server_options)).workload
    assert plan["kv_cache_gib"] == pytest.approx(gpu * plain["kv_cache_gib"])
    assert plan["host_cache_gib"] == pytest.approx(cpu * plain["host_cache_gib"])


@pytest.mark.parametrize(
    ("server_options", "said"),
    [
        (("--dtype", "int4"), "number format 'int4'"),
        (("-tp", "none"), "--tensor-parallel-size none: give a whole number"),
    ],
)
def test_what_memory_cannot_follow_is_refused(server_options, said):
    with pytest.raises(UsageError, match=said):
        plan_users(options(server_options=server_options))


def test_a_template_that_adds_much_to_a_message_leaves_room_for_fewer_turns(monkeypatch):
    """Measured for the model, not a constant: 1,024 tokens hold turns of 102, or of 300."""
    short = {"history_tokens": 0, "max_new_tokens": 32, "server_options": ("--max-model-len=1024",)}
    assert plan_users(options(**short, turns=20)).workload["turns"] == (1024 - 16) // (38 + 32 + 32)
    wordy = TokenCounter(len, 1.0, message_overhead_tokens=115)
    for module in (users, guide_demonstration):
        monkeypatch.setattr(module, "token_counter", lambda model: wordy)
    plan = plan_users(options(**short, turns=20))
    assert plan.workload["turns"] == (1024 - 115) // (38 + 32 + 2 * 115)
    shown = plan_demonstration(options(**short, turns=20, modes="pensieve"))
    longest = max(map(len, guide_demonstration.QUESTIONS))
    assert len(shown.conversations[0].turns) == (1024 - 115) // (longest + 32 + 2 * 115)
