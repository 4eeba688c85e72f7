"""Sampled answers of a server in this process: longer conversations than an engine step, alone and several at once."""

import pytest

from vllm_pensieve.serving import create_server

pytestmark = pytest.mark.engine

STEP_TOKENS = 128


@pytest.fixture(params=["pensieve", "vllm"])
def server(tiny_model, request):
    options = ("--max-num-batched-tokens", str(STEP_TOKENS), "--max-num-seqs", "8")
    with create_server(
        mode=request.param,
        model=str(tiny_model),
        gpu_cache_gb=0.02,
        temperature=1.0,
        ignore_eos=True,
        vllm_options=("--dtype", "float32", "--max-model-len", "1024", *options),
    ) as made:
        yield made


def test_conversations_outgrow_a_step_and_short_answers_follow_their_seed(server):
    first, again = (server.process_request(name, "hello", 8) for name in "ab")
    assert first == again
    assert server.process_request("a", "word " * 60, 8).prompt_tokens > 2 * STEP_TOKENS
    together = [server.begin(name, "some words more " * 5, 8) for name in "cdef"]
    while not all(answer.reply for answer in together):
        for answer in together:
            server.advance(answer)
    assert [answer.reply.output_tokens for answer in together] == [8] * 4
