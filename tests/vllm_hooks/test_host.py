"""What vLLM takes of the host, as far as it has been said."""

import pytest

from vllm_pensieve.vllm_hooks.host import kv_cache_size_is_said


@pytest.mark.parametrize(
    ("option", "variable", "said"),
    [(None, None, False), (2**30, None, True), (None, "1", True), (2**30, "1", True)],
)
def test_the_size_of_the_kv_cache_is_said_by_option_or_by_variable(
    tmp_path, monkeypatch, option, variable, said
):
    from vllm import envs
    from vllm.engine.arg_utils import EngineArgs

    envs.disable_envs_cache()  # an engine of this process has vLLM read the environment once
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    if variable is not None:
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", variable)
    arguments = EngineArgs(model=str(tmp_path), kv_cache_memory_bytes=option)
    assert kv_cache_size_is_said(arguments) is said
