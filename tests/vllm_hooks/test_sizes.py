"""Sizes from vLLM's configuration are those that the model's own file gives."""

from types import SimpleNamespace

import pytest

from tests.retention.test_model_shapes import SHAPES
from vllm_pensieve.kv_shape import kv_shape
from vllm_pensieve.vllm_hooks.sizes import kv_bytes_per_token


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("config", SHAPES, ids=lambda config: config.__name__)
def test_kv_of_a_token_is_the_same_from_the_file_and_from_vllm(tmp_path, config, dtype):
    from vllm.config import ModelConfig, ParallelConfig

    config().save_pretrained(tmp_path)
    theirs = SimpleNamespace(
        model_config=ModelConfig(model=str(tmp_path), dtype=dtype, skip_tokenizer_init=True),
        parallel_config=ParallelConfig(),
    )
    assert kv_bytes_per_token(theirs) == kv_shape(str(tmp_path), dtype).bytes_per_token > 0
