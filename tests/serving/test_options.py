"""Claims about a server's options, and the words in which they are refused."""

import os
import signal

import pytest

from vllm_pensieve.errors import UsageError
from vllm_pensieve.serving import ServerOptions, create_server, engine
from vllm_pensieve.serving.engine import engine_arguments


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "turbo"}, "unknown mode 'turbo'; choose one of: vllm, vllm-apc"),
        ({"mode": "vllm-offload"}, "compared only"),
        ({"mode": "vllm", "cpu_cache_gb": 1.0}, "mode vllm keeps nothing in host memory"),
        ({"mode": "pensieve-no-swap", "cpu_cache_gb": 1.0}, "keeps nothing in host memory"),
        ({"gpu_cache_gb": 0}, "gpu_cache_gb is 0; it must be above 0"),
        ({"gpu_cache_gb": float("nan")}, "gpu_cache_gb is nan; a number"),
        ({"cpu_cache_gb": -1}, "cpu_cache_gb is -1; it must be 0 or more"),
        ({"cpu_cache_gb": "2"}, "cpu_cache_gb is '2'; a number"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; at least 1"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5; a whole number"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0 or more"),
        ({"model": "a", "model_name": "b"}, "model is 'a' and model_name is 'b'; give one"),
        (
            {"gpu_cash_gb": 1},
            "unknown option gpu_cash_gb; choose one of: mode, model, gpu_cache_gb",
        ),
        (
            {"cpu_cache_gb": 99999},
            r"cpu_cache_gb \(--cpu-cache\) is 99999 GB, and [\d.]+ GB of main",
        ),
        (
            {"gpu_cache_gb": 99999},
            r"gpu_cache_gb \(--gpu-cache\) is 99999 GB, and [\d.]+ GB of main",
        ),
        ({"seed": 1.5}, "seed is 1.5; a whole number"),
        ({"vllm_options": "--dtype float32"}, "a list of words is expected"),
        ({"device": "abacus"}, "choose one of: auto, cpu, cuda, cuda:N"),
        ({"model": "/no/such/model"}, "cannot start with model '/no/such/model'"),
        ({"vllm_options": ["--block-sise", "16"]}, "unrecognized arguments: --block-sise"),
    ],
)
def test_what_cannot_be_used_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        create_server(**options)


def test_the_length_of_replies_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MAX_NEW_TOKENS", "7")
    assert ServerOptions().max_new_tokens == 7
    assert ServerOptions(max_new_tokens=9).max_new_tokens == 9
    monkeypatch.delenv("MAX_NEW_TOKENS")
    assert ServerOptions().max_new_tokens == 128


def test_modes_and_sizes_become_vllms_own_arguments(tiny_model):
    def arguments(mode, **options):
        options = {"model": str(tiny_model), "gpu_cache_gb": 0.25} | options
        return engine_arguments(ServerOptions(mode=mode, **options))

    ours = arguments("pensieve", cpu_cache_gb=1.0, vllm_options=("--dtype", "float32"))
    assert (ours.kv_cache_memory_bytes, ours.enable_prefix_caching) == (250_000_000, True)
    assert ours.additional_config == {"pensieve": {"host_cache_gib": 1e9 / 2**30}}
    assert (ours.dtype, ours.block_size) == ("float32", 32)
    assert arguments("vllm-apc").enable_prefix_caching is True
    assert arguments("vllm").enable_prefix_caching is False
    assert "pensieve" not in (arguments("vllm").additional_config or {})


def test_a_process_may_ask_for_its_gpu_again_and_for_another_until_one_is_used(monkeypatch):
    monkeypatch.setattr("vllm_pensieve.device.is_cpu_build", lambda: False)
    monkeypatch.setattr(engine, "_found", {})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    for device, visible in (("cuda:1", "6"), ("cuda:1", "6"), ("cuda:0", "4"), ("auto", "4,6")):
        engine._choose_device(device)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    engine._choose_device("cuda")
    with pytest.raises(UsageError, match="uses CUDA_VISIBLE_DEVICES=4,6 already"):
        engine._choose_device("cuda:0")


def test_ctrl_c_while_the_engine_is_made_ends_it(tiny_model, monkeypatch):
    """It is raised when the engine is there; a second start finds nothing left of the first."""
    stopped = []
    monkeypatch.setattr(engine.Engine, "_end", lambda self, made: stopped.append(made))

    class Made:
        @classmethod
        def from_vllm_config(cls, config, disable_log_stats):
            os.kill(os.getpid(), signal.SIGINT)
            made.append(cls())
            return made[0]

    made: list[Made] = []
    monkeypatch.setattr("vllm.v1.engine.llm_engine.LLMEngine", Made)
    with pytest.raises(KeyboardInterrupt):
        create_server(model=str(tiny_model))
    assert made and stopped == made
