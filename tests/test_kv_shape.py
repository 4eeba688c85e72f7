"""How much KV a token has, from the configurations of models that name their sizes differently."""

import json
from pathlib import Path

import pytest

from vllm_pensieve.errors import UsageError
from vllm_pensieve.kv_shape import KvShape, kv_shape

# As on the hub, without what nothing here reads.
FAMILIES = {
    "gpt2": ({"n_embd": 768, "n_head": 12, "n_layer": 12}, KvShape(12, 2 * 768 * 2)),
    "opt-125m": (
        {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12}
        | {"word_embed_proj_dim": 768, "torch_dtype": "float16"},
        KvShape(12, 2 * 768 * 2),
    ),
    "gpt-neo-125m": (
        {"hidden_size": 768, "num_heads": 12, "num_layers": 12},
        KvShape(12, 2 * 768 * 2),
    ),
    "gpt-j-6b": ({"n_embd": 4096, "n_head": 16, "n_layer": 28}, KvShape(28, 2 * 4096 * 2)),
    "mpt-7b": (
        {"d_model": 4096, "n_heads": 32, "n_layers": 32, "attn_config": {"alibi": True}}
        | {"torch_dtype": "bfloat16"},
        KvShape(32, 2 * 4096 * 2),
    ),
    "dbrx": (
        {"d_model": 6144, "n_heads": 48, "n_layers": 40, "attn_config": {"kv_n_heads": 8}},
        KvShape(40, 2 * 8 * 128 * 2),
    ),
    "falcon-7b": (
        {"hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32}
        | {"multi_query": True, "num_kv_heads": 71, "new_decoder_architecture": False},
        KvShape(32, 2 * 64 * 2),
    ),
    "falcon-40b": (
        {"hidden_size": 8192, "num_attention_heads": 128, "num_hidden_layers": 60}
        | {"multi_query": True, "num_kv_heads": 8, "new_decoder_architecture": True},
        KvShape(60, 2 * 8 * 64 * 2),
    ),
    "chatglm3-6b": (
        {"hidden_size": 4096, "num_attention_heads": 32, "num_layers": 28, "kv_channels": 128}
        | {"multi_query_attention": True, "multi_query_group_num": 2, "torch_dtype": "float16"},
        KvShape(28, 2 * 2 * 128 * 2),
    ),
    "deepseek-v3": (
        {"hidden_size": 7168, "num_attention_heads": 128, "num_key_value_heads": 128}
        | {"num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
        | {"torch_dtype": "bfloat16"},
        KvShape(61, 576 * 2),
    ),
    "gemma-3-4b": (
        {"torch_dtype": "bfloat16", "text_config": {"hidden_size": 2560, "head_dim": 256}
         | {"num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 34}},
        KvShape(34, 2 * 4 * 256 * 2),
    ),
    "qwen2.5-omni-7b": (
        {"thinker_config": {"text_config": {"hidden_size": 3584, "num_attention_heads": 28}
         | {"num_key_value_heads": 4, "num_hidden_layers": 28, "torch_dtype": "bfloat16"}}},
        KvShape(28, 2 * 4 * 128 * 2),
    ),
    "qwen3-next": (
        {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256}
        | {"num_hidden_layers": 4, "layer_types": ["linear_attention"] * 3 + ["full_attention"]},
        KvShape(1, 2 * 2 * 256 * 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_kv_of_a_family(tmp_path: Path, name):
    config, shape = FAMILIES[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert kv_shape(str(tmp_path)) == shape


def test_a_number_format_may_be_named_outside_the_text_model_and_with_torch_before_it(tmp_path):
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"text_config": sizes, "torch_dtype": "torch.float32"}))
    assert kv_shape(str(path)) == KvShape(1, 2 * 8 * 4)


def test_the_demo_model_has_8_kib_a_token():
    assert kv_shape("demo") == KvShape(layers=8, layer_bytes_per_token=1024)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (
            {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096}
            | {"num_key_value_heads": 8, "torch_dtype": "bfloat16"},
            KvShape(32, 4096),
        ),
        (
            {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "head_dim": 8}
            | {"dtype": "float32"},
            KvShape(2, 2 * 4 * 8 * 4),
        ),
        (
            {"text_config": {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8}},
            KvShape(1, 2 * 2 * 4 * 2),
        ),
    ],
    ids=["grouped-heads", "own-head-size", "inside-another"],
)
def test_a_model_is_known_by_its_configuration(tmp_path: Path, config, shape):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert kv_shape(str(path)) == kv_shape(str(tmp_path)) == shape


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is not the configuration of a model"),
        ("[" * 100_000, "cannot be read"),
        ('{"n_layer": 2, "n_head": 2, "n_embd": 8, "kv_lora_rank": 512}', "with kv_lora_rank, qk_rope_head_dim"),
        ('{"n_layer": 2, "n_head": 2, "n_embd": 8, "torch_dtype": 16}', "number format 16"),
        ('{"num_hidden_layers": "8"}', "needs num_hidden_layers, num_attention_heads, and"),
        ('{"num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 8, "dtype": "int3"}', "number format 'int3'"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, content, message):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        kv_shape(str(path))
