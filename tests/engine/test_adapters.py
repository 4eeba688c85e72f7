"""Whose KV is it: adapters and cache salts share nothing, in GPU memory, in host memory and after holes."""

import pytest

pytestmark = pytest.mark.engine

BLOCK = 32


@pytest.fixture(scope="module")
def served(serve):
    return serve(
        blocks=70,
        host_blocks=500,
        settings={"verify_swaps": True, "load_cost_flops_per_byte": 1e-9},
        enable_lora=True,
        max_lora_rank=8,
        max_loras=3,
    )


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """LoRARequests a and b."""
    from vllm.lora.request import LoRARequest

    from vllm_pensieve.testing.models import make_adapter

    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: LoRARequest(name, number, str(make_adapter(folder / name, seed=number)))
        for number, name in enumerate("ab", start=1)
    }


def ask(served, prompt, adapter=None, **kwargs):
    """The request's output; its blocks are cached afterwards."""
    name = served.add(prompt, lora_request=adapter, **kwargs)
    return served.drain()[name]


def push_out(served, seed):
    from vllm_pensieve.testing.served import tokens

    for i in range(2):
        served.serve([tokens(1200, seed=7_000 + 10 * seed + i)], output_tokens=1)


def salted(prompt, salt):
    return {"prompt_token_ids": prompt, "cache_salt": salt}


@pytest.mark.parametrize("where", ["resident", "swapped", "behind a hole"])
def test_nothing_is_shared_between_adapters_or_the_model_itself(served, adapters, where):
    from vllm_pensieve.testing.served import token_ids, tokens

    prompt = tokens(600, seed=len(where))
    owners = [None, adapters["a"], adapters["b"]]
    served.llm.reset_prefix_cache()
    cold = [token_ids(ask(served, prompt, owner)) for owner in owners]
    assert len({tuple(answer) for answer in cold}) == 3, "the adapters must make a difference"
    for i, owner in enumerate(owners):
        served.llm.reset_prefix_cache()
        ask(served, prompt, owner)
        if where != "resident":
            push_out(served, i)
        if where == "behind a hole":
            served.add(prompt, lora_request=owner)
            served.drain()
            drop_leading_blocks(served)
        for other, answer in zip(owners, cold, strict=True):
            if other is not owner:
                output = ask(served, prompt, other)
                assert (output.num_cached_tokens, token_ids(output)) == (0, answer)
        output = ask(served, prompt, owner)
        assert output.num_cached_tokens > 0 and token_ids(output) == cold[i]
    served.assert_nothing_left()


def drop_leading_blocks(served):
    """Of every sequence, from both memories, the first two blocks."""
    pool, host = served.pool, served.scheduler.swapper.host
    for block in [b for b in pool.blocks if b.block_hash and b.block_hash_num_tokens <= 2 * BLOCK]:
        key = block.block_hash
        pool.evict_blocks({block.block_id})
        if (slot := host.find(key)) is not None:
            host.discard([slot])
    served.poison_empty_blocks()


def test_nothing_is_shared_between_cache_salts(served):
    from vllm_pensieve.testing.served import greedy, token_ids, tokens

    prompt = tokens(600, seed=77)
    served.llm.reset_prefix_cache()

    def ask_salted(salt):
        name = next(served._names)
        served.engine.add_request(name, salted(prompt, salt), greedy(8))
        return served.drain()[name]

    cold = token_ids(ask(served, prompt))
    for leave in ("resident", "swapped", "behind a hole"):
        served.llm.reset_prefix_cache()
        assert ask_salted("s1").num_cached_tokens == 0
        if leave != "resident":
            push_out(served, len(leave))
        if leave == "behind a hole":
            ask_salted("s1")
            drop_leading_blocks(served)
        assert ask_salted("s2").num_cached_tokens == 0
        output = ask_salted("s1")
        assert output.num_cached_tokens > 0 and token_ids(output) == cold


@pytest.mark.parametrize("where", ["resident", "swapped"])
def test_an_adapter_that_is_loaded_again_starts_without_blocks_of_its_old_weights(
    served, adapters, where, tmp_path
):
    from vllm.lora.request import LoRARequest

    from vllm_pensieve.testing.models import make_adapter
    from vllm_pensieve.testing.served import token_ids, tokens

    prompt = tokens(600, seed=5 + len(where))
    number = 10 + len(where)
    folder = make_adapter(tmp_path / "changing", seed=number)
    changing = LoRARequest("changing", number, str(folder))
    other = adapters["a"]
    served.llm.reset_prefix_cache()
    old = token_ids(ask(served, prompt, changing))
    ask(served, prompt, other)
    if where == "swapped":
        push_out(served, number)
    make_adapter(folder, seed=number + 1)
    again = LoRARequest("changing", number, str(folder), load_inplace=True)
    assert served.engine.add_lora(again)
    output = ask(served, prompt, changing)
    assert output.num_cached_tokens == 0 and token_ids(output) != old
    assert ask(served, prompt, other).num_cached_tokens > 0, "other adapters keep theirs"
    served.llm.reset_prefix_cache()
    assert token_ids(ask(served, prompt, changing)) == token_ids(output), "as a fresh server"
    cached = served.pool.cached_block_hash_to_block
    for key in served.scheduler.adapter_blocks._adapters:  # nothing is remembered without need
        assert cached.get_one_block(key) is not None or served.scheduler._is_in_host_memory(key)
    served.assert_nothing_left()


def test_a_request_under_way_goes_on_with_the_new_weights(served, tmp_path):
    from vllm.lora.request import LoRARequest

    from vllm_pensieve.testing.models import make_adapter
    from vllm_pensieve.testing.served import token_ids, tokens

    folder = make_adapter(tmp_path / "changing", seed=31)
    changing = LoRARequest("changing", 31, str(folder))
    prompt = tokens(100, seed=31)
    name = served.add(prompt, 12, lora_request=changing)
    for _ in range(5):
        served.step()
    so_far = list(served.scheduled(name).output_token_ids)
    make_adapter(folder, seed=32)
    again = LoRARequest("changing", 31, str(folder), load_inplace=True)
    served.engine.add_lora(again)
    answer = token_ids(served.drain()[name])
    assert answer[: len(so_far)] == so_far
    served.llm.reset_prefix_cache()
    rest = ask(served, [*prompt, *so_far], changing, output_tokens=12 - len(so_far))
    assert answer[len(so_far) :] == token_ids(rest)
    served.assert_nothing_left()
