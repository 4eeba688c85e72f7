"""The cost model of a model's configuration, against FLOPs counted by torch in a forward pass of transformers'.

The models have the sizes of those on the hub, and no weights: nothing is computed, only counted.
"""

from pathlib import Path

import pytest

from vllm_pensieve.retention import AnalyticCostModel, ModelShape

LENGTHS = (256, 1024)


def gpt2():
    from transformers import GPT2Config

    return GPT2Config()


def opt_125m():
    from transformers import OPTConfig

    return OPTConfig()


def opt_350m():
    from transformers import OPTConfig

    sizes = {"hidden_size": 1024, "ffn_dim": 4096, "word_embed_proj_dim": 512}
    layers = {"num_hidden_layers": 24, "num_attention_heads": 16, "do_layer_norm_before": False}
    return OPTConfig(**sizes, **layers)


def llama_3_8b():
    from transformers import LlamaConfig

    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
    return LlamaConfig(**sizes, **heads, vocab_size=128256, max_position_embeddings=8192)


def gemma_2_2b():
    from transformers import Gemma2Config

    sizes = {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
    return Gemma2Config(**sizes, **heads)


SHAPES = {
    gpt2: ModelShape(12, 768, 12, 12, 64, 3072, gated_feed_forward=False),
    opt_125m: ModelShape(12, 768, 12, 12, 64, 3072, gated_feed_forward=False),
    opt_350m: ModelShape(24, 1024, 16, 16, 64, 4096, gated_feed_forward=False),
    llama_3_8b: ModelShape(32, 4096, 32, 8, 128, 14336, gated_feed_forward=True),
    gemma_2_2b: ModelShape(26, 2304, 8, 4, 256, 9216, gated_feed_forward=True),
}


@pytest.mark.parametrize("config", SHAPES, ids=lambda config: config.__name__)
def test_the_shape_of_a_family_is_read_from_its_configuration(tmp_path, config):
    assert shape(config(), tmp_path) == SHAPES[config]


@pytest.mark.parametrize("config", SHAPES, ids=lambda config: config.__name__)
def test_flops_are_those_that_torch_counts(config):
    """In transformers' plain attention every token attends to all, also to those behind it."""
    short, long = LENGTHS
    counted = [counted_flops(config(), length) for length in LENGTHS]
    attention = (counted[1] / long - counted[0] / short) / (long - short)
    linear = counted[0] / short - attention * short
    ours = AnalyticCostModel.from_shape(SHAPES[config])
    assert ours.attention == pytest.approx(attention, rel=0.001)
    assert ours.linear == pytest.approx(linear, rel=0.005)


def shape(config, folder: Path) -> ModelShape:
    from vllm.config import ModelConfig

    from vllm_pensieve.vllm_hooks.sizes import model_shape

    config.save_pretrained(folder)
    return model_shape(ModelConfig(model=str(folder), skip_tokenizer_init=True))


def counted_flops(config, tokens: int) -> int:
    """FLOPs of all layers over a sequence of that many tokens, without the output head."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModel

    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        model = AutoModel.from_config(config, attn_implementation="eager").eval()
        mask = torch.zeros(
            (1, 1, tokens, tokens)
        )  # given, so that transformers need not look at values
        model(
            input_ids=torch.zeros((1, tokens), dtype=torch.long),
            attention_mask=dict.fromkeys(("full_attention", "sliding_attention"), mask)
            if config.model_type == "gemma2"
            else mask,
            position_ids=torch.arange(tokens)[None],
            use_cache=False,
        )
    return counter.get_total_flops()
