"""Two engines with the plugin in one process: each with statistics of its own."""

import pytest

pytestmark = pytest.mark.engine


def test_both_report_their_statistics(tiny_model, keep_alive):
    from vllm import LLM

    from vllm_pensieve.testing.served import greedy, tokens

    def engine():
        made = LLM(
            model=str(tiny_model),
            dtype="float32",
            enforce_eager=True,
            block_size=32,
            max_model_len=512,
            num_gpu_blocks_override=40,
            disable_log_stats=False,
            additional_config={"pensieve": {}},
        )
        keep_alive(made)
        return made

    first, second = engine(), engine()
    for llm in (first, second):
        llm.generate([{"prompt_token_ids": tokens(100)}], greedy(2), use_tqdm=False)
    counted = {
        metric.labels["source"]: metric.value
        for metric in second.get_metrics()
        if metric.name == "vllm:pensieve_prompt_tokens"
    }
    assert counted["new"] == 100
