"""What is asked for and what there is: sizes stay while the machine can carry them, and are cut in one line."""

import pytest

from vllm_pensieve.bench.fit import Fitted, Room, fit_memory, fit_turns, machine_room
from vllm_pensieve.errors import UsageError
from vllm_pensieve.workloads.conversations import WorkloadSpec

CPU = Room(gpu_gb=None, main_gb=14.0)
GPU = Room(gpu_gb=60.0, main_gb=100.0)


@pytest.mark.parametrize("room", [CPU, GPU])
@pytest.mark.parametrize("sizes", [(4.0, 8.0), (None, 8.0), (4.0, None), (4.0, 0.0), (None, None)])
def test_what_the_machine_can_carry_stays_as_it_is(room, sizes):
    assert fit_memory(*sizes, True, room) == Fitted(*sizes)


def test_on_a_cpu_both_memories_are_cut_in_proportion():
    fitted = fit_memory(40.0, 100.0, True, CPU)
    assert fitted.gpu_cache_gb == pytest.approx(4.0, rel=0.01)
    assert fitted.cpu_cache_gb == pytest.approx(10.0, rel=0.01)
    assert fitted.gpu_cache_gb + fitted.cpu_cache_gb <= CPU.main_gb
    (note,) = fitted.notes
    for said in ("--gpu-cache 40 --cpu-cache 100 GB asked for", "has 14 GB", "--gpu-cache 3.98"):
        assert said in note


def test_host_memory_that_no_mode_uses_takes_no_room():
    assert fit_memory(14.0, 100.0, False, CPU) == Fitted(14.0, 100.0)


def test_a_gpu_and_main_memory_are_cut_each_for_itself():
    assert fit_memory(40.0, 100.0, True, GPU) == Fitted(40.0, 100.0)
    fitted = fit_memory(80.0, 50.0, True, GPU)
    assert (fitted.gpu_cache_gb, fitted.cpu_cache_gb) == (59.7, 50.0)
    assert "60 GB for KV on a GPU" in fitted.notes[0]


def test_the_room_is_main_memory_less_a_fifth_and_the_weights(monkeypatch, tmp_path):
    monkeypatch.setattr("vllm_pensieve.swap.host_memory.available_bytes", lambda: 20 * 10**9)
    monkeypatch.setattr("vllm_pensieve.bench.fit.is_cpu_build", lambda: True)
    assert machine_room("demo") == Room(None, 16.0)
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(3 * 10**9)
    assert machine_room(str(tmp_path)) == Room(None, 13.0)


def test_each_gpu_has_room_for_a_workers_part_of_the_weights(monkeypatch, tmp_path):
    monkeypatch.setattr("vllm_pensieve.swap.host_memory.available_bytes", lambda: 5 * 10**9)
    monkeypatch.setattr("vllm_pensieve.bench.fit.is_cpu_build", lambda: False)
    machine = {"gpus": ["NVIDIA H100, 81559 MiB", "NVIDIA H100, 81559 MiB"]}
    monkeypatch.setattr("vllm_pensieve.bench.fit.describe_machine", lambda: machine)
    room = machine_room("demo")
    assert room.main_gb == 3.0
    assert room.gpu_gb == pytest.approx(81559 * 2**20 / 1e9 * 0.9 - 2.0)
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(16 * 10**9)
    two = machine_room(str(tmp_path), ("--tensor-parallel-size", "2"))
    assert two.gpu_gb == pytest.approx(room.gpu_gb - 8.0)


def spec(turns: int, history_tokens: int, output_tokens: int) -> WorkloadSpec:
    return WorkloadSpec("users", 1, turns, history_tokens, 38, output_tokens, 0.5, 1)


@pytest.mark.parametrize(
    ("output_tokens", "turns", "history"), [(32, 9, 90), (64, 7, 70), (128, 5, 18), (20, 10, 108)]
)
def test_gpt2_reaches_turn_5(output_tokens, turns, history):
    per_turn = 38 + output_tokens + 32
    fitted, notes = fit_turns(spec(10, 1500, output_tokens), 1024, "the context", per_turn, 16)
    assert (fitted.turns, fitted.history_tokens) == (turns, history)
    assert len(notes) == 1 and "not 10 turns after a text of 1,500 tokens" in notes[0]


def test_only_what_does_not_hold_one_turn_is_refused():
    fitted, _ = fit_turns(spec(10, 1500, 938), 1024, "the context", 1008, 16)
    assert (fitted.turns, fitted.history_tokens) == (1, 0)
    with pytest.raises(
        UsageError, match="one turn takes about 1025 tokens, the context holds 1024"
    ):
        fit_turns(spec(10, 1500, 939), 1024, "the context", 1009, 16)


def test_nothing_is_cut_where_no_limit_is_known():
    asked = spec(10, 10**6, 32)
    assert fit_turns(asked, None, "the context", 102, 16) == (asked, ())
