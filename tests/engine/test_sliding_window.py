"""A model that pensieve cannot recover holes for is served as by stock vLLM."""

import pytest

pytestmark = pytest.mark.engine

BLOCK = 32


@pytest.mark.parametrize("layers_alike", [None, True])
def test_a_sliding_window_model_is_served_with_plain_prefixes(serve, tmp_path, layers_alike):
    """Also where vLLM treats all layers alike, which they are already: it keeps the window."""
    from vllm_pensieve.testing.models import make_sliding_window_mistral
    from vllm_pensieve.testing.served import pensieve_messages, token_ids, tokens

    model = make_sliding_window_mistral(tmp_path, window_tokens=3 * BLOCK)
    options = {"disable_hybrid_kv_cache_manager": layers_alike}
    first = [tokens(9 * BLOCK + 7, seed=i) for i in range(3)]
    second = [prompt + tokens(50, seed=10) for prompt in first]
    with pensieve_messages() as reasons:
        pensieve = serve(model, **options)
    stock = serve(model, scheduler=None, **options)
    assert "sliding window" in pensieve.scheduler.plain_prefixes_because
    assert sum(pensieve.scheduler.plain_prefixes_because in message for message in reasons) == 1
    for batch in (first, second, first):
        ours, want = pensieve.serve(batch), stock.serve(batch)
        assert [token_ids(output) for output in ours] == [token_ids(output) for output in want]
        assert [o.num_cached_tokens for o in ours] == [o.num_cached_tokens for o in want]
    assert ours[0].num_cached_tokens > 0
