"""What is read from a model's own files, for the families whose configurations differ most."""

import json
from pathlib import Path

import pytest

from vllm_pensieve.kv_shape import KvShape, kv_shape
from vllm_pensieve.models import (
    PLAIN_CHAT_TEMPLATE,
    chat_options,
    context_limit,
    window_options,
)

# As on the hub, without what nothing here reads.
CONFIGS = {
    "gpt2": {"model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
    | {"n_positions": 1024, "vocab_size": 50257},
    "opt-125m": {"model_type": "opt", "ffn_dim": 3072, "hidden_size": 768}
    | {"max_position_embeddings": 2048, "num_attention_heads": 12, "num_hidden_layers": 12}
    | {"torch_dtype": "float16", "word_embed_proj_dim": 768},
    "Meta-Llama-3-8B": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336}
    | {"max_position_embeddings": 8192, "num_attention_heads": 32, "num_hidden_layers": 32}
    | {"num_key_value_heads": 8, "rope_theta": 500000.0, "torch_dtype": "bfloat16"},
    "gemma-2-2b": {"model_type": "gemma2", "head_dim": 256, "hidden_size": 2304}
    | {"max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 26}
    | {"num_key_value_heads": 4, "sliding_window": 4096, "torch_dtype": "float32"},
    "starcoderbase": {"model_type": "gpt_bigcode", "multi_query": True, "n_embd": 6144}
    | {"n_head": 48, "n_layer": 40, "n_positions": 8192},
}
ROPE = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}


@pytest.fixture
def folder(tmp_path: Path):
    def write(config: dict) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    return write


@pytest.mark.parametrize(
    ("name", "shape", "context"),
    [
        ("gpt2", KvShape(12, 2 * 768 * 2), 1024),
        ("opt-125m", KvShape(12, 2 * 768 * 2), 2048),
        ("Meta-Llama-3-8B", KvShape(32, 2 * 8 * 128 * 2), 8192),
        ("gemma-2-2b", KvShape(26, 2 * 4 * 256 * 4), 8192),
        ("starcoderbase", KvShape(40, 2 * 128 * 2), 8192),
    ],
)
def test_kv_and_context_of_a_family(folder, name, shape, context):
    model = folder(CONFIGS[name])
    assert kv_shape(model) == shape
    assert context_limit(model) == context


@pytest.mark.parametrize(
    "config",
    [CONFIGS["Meta-Llama-3-8B"] | {"rope_scaling": ROPE}, {"model_type": "unheard-of"}],
    ids=["stretched by a factor", "unknown to transformers"],
)
def test_a_context_that_only_vllm_can_tell_is_left_to_it(folder, config):
    assert context_limit(folder(config)) is None


def test_a_factor_that_the_length_contains_already_changes_nothing(folder):
    scaling = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = CONFIGS["Meta-Llama-3-8B"] | {"max_position_embeddings": 131072}
    assert context_limit(folder(config | {"rope_scaling": scaling})) == 131072


def test_the_demo_model_has_a_context_and_a_template_of_its_own():
    assert context_limit("demo") == 32768
    assert chat_options("demo") == ()


# -- chat templates


@pytest.fixture
def tokenizer(tmp_path: Path):
    from vllm_pensieve.testing.models import save_tokenizer

    save_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["gpt2"]))
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tmp_path)


def test_a_model_without_a_template_is_given_the_plain_one(tokenizer, tmp_path):
    assert chat_options(str(tmp_path)) == ("--chat-template", PLAIN_CHAT_TEMPLATE)


def test_a_model_with_a_template_keeps_it(tokenizer, tmp_path):
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(tmp_path)
    assert chat_options(str(tmp_path)) == ()


def test_in_the_plain_template_a_reply_stands_as_it_was_generated(tokenizer):
    def render(messages, **kwargs):
        return tokenizer.apply_chat_template(
            messages, chat_template=PLAIN_CHAT_TEMPLATE, tokenize=False, **kwargs
        )

    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    prompt = render(asked, add_generation_prompt=True)
    assert prompt == "System: Be brief.\nUser: Why?\nAssistant:"
    answered = [*asked, {"role": "assistant", "content": " Because."}]
    assert render(answered) == prompt + " Because.\n"


def test_vllm_takes_the_plain_template_from_its_command_line():
    from vllm.renderers.chat_utils import load_chat_template, validate_chat_template

    validate_chat_template(PLAIN_CHAT_TEMPLATE)
    assert load_chat_template(PLAIN_CHAT_TEMPLATE) == PLAIN_CHAT_TEMPLATE


def test_only_models_with_windows_in_some_layers_are_given_the_option_that_keeps_all_tokens(
    tmp_path,
):
    from vllm_pensieve.testing.originals.models import make_models

    make_models(tmp_path, ["google/gemma-2-27b-it", "gpt2"])
    gemma = str(tmp_path / "google/gemma-2-27b-it")
    option = "--disable-hybrid-kv-cache-manager"
    assert window_options(gemma, ()) == (option,)
    assert window_options(gemma, (option,)) == ()
    assert window_options(gemma, ("--no-disable-hybrid-kv-cache-manager",)) == ()
    assert window_options(str(tmp_path / "gpt2"), ()) == window_options("demo", ()) == ()
