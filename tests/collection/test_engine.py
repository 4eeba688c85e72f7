"""The engine that is recorded: its environment, and what vLLM refuses."""

from pathlib import Path

import pytest

from vllm_pensieve.collection.engine import prepare_recording_environment, start_recording
from vllm_pensieve.collection.recording import Recording
from vllm_pensieve.errors import UsageError


def recording(model: Path, **options: object) -> Recording:
    given = {
        "workload": "qa",
        "model": str(model),
        "block_tokens": 32,
        "out": Path("/nowhere"),
        "simulate": True,
        "max_prompt_tokens": 1000,
        "max_output_tokens": 8,
        "kv_cache_gib": 0.25,
        "real_time": False,
    }
    return Recording(**given | options)  # type: ignore[arg-type]


def test_the_documented_environment_is_taken_out_and_told():
    environment = {"VLLM_PLATFORM": "cpu", "VLLM_ATTENTION_BACKEND": "TORCH_SDPA", "HOME": "/root"}
    notes = prepare_recording_environment(environment)
    assert len(notes) == 2
    assert "VLLM_PLATFORM" not in environment and "VLLM_ATTENTION_BACKEND" not in environment
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert environment["HOME"] == "/root"


def test_what_the_user_set_of_vllm_is_kept():
    environment = {"VLLM_LOGGING_LEVEL": "DEBUG"}
    assert prepare_recording_environment(environment) == []
    assert environment["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_without_the_plugin_nothing_could_be_recorded():
    with pytest.raises(UsageError, match="VLLM_PENSIEVE=0 keeps the plugin off"):
        prepare_recording_environment({"VLLM_PENSIEVE": "0"})
    with pytest.raises(UsageError, match="VLLM_PENSIEVE='no' is not understood; allowed: 1"):
        prepare_recording_environment({"VLLM_PENSIEVE": "no"})


def test_files_are_named_by_workload_and_block_size():
    files = recording(Path("model"), out=Path("/tmp"), block_tokens=64).files()
    assert [path.name for path in files] == [
        "prefix_qa_b64_requests.jsonl",
        "prefix_qa_b64_blocks.jsonl",
    ]


@pytest.mark.engine
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_cache_gib": 0.001}, "blocks of 32 tokens: .*KV cache"),
        ({"max_prompt_tokens": 10_000}, "blocks of 32 tokens: .*max_model_len"),
    ],
)
def test_what_vllm_refuses_is_one_message(tiny_model, monkeypatch, tmp_path, options, message):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    with pytest.raises(UsageError, match=f"vLLM cannot start with model .* and {message}"):
        start_recording(recording(tiny_model, out=tmp_path, **options))
