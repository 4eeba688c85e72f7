"""The seam between what was generated and what is sent back, with tokens that are pieces of words."""

import pytest

from vllm_pensieve.serving import create_server

pytestmark = pytest.mark.engine

TURNS = 5
REPLY_TOKENS = 70
BLOCK_TOKENS = 32


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_full_block_of_a_reply_is_found_again(bpe_model, temperature):
    with create_server(
        model=str(bpe_model),
        gpu_cache_gb=0.02,
        temperature=temperature,
        ignore_eos=True,
        vllm_options=("--dtype", "float32", "--max-model-len", "1024"),
    ) as server:
        tokenizer = server._tokenizer
        computed: list[int] = []
        read_differently = 0
        for turn in range(TURNS):
            reply = server.process_request("seam", f"Question {turn}, please.", REPLY_TOKENS)
            assert reply.output_tokens == REPLY_TOKENS
            assert reply.cached_tokens == len(computed) // BLOCK_TOKENS * BLOCK_TOKENS
            generated = server.token_ids("seam")[-REPLY_TOKENS:]
            read_differently += tokenizer.encode(reply.text, add_special_tokens=False) != generated
            computed = server.token_ids("seam")[:-1]
        assert read_differently > 0, "the seam was not put to the test"
