"""Two workers, each with its half of every block, in a process of their own: prints what came of it as JSON.

python -m tests.engine.tensor_parallel MODEL
"""

import json
import sys


def main() -> None:
    from vllm import LLM

    from vllm_pensieve.testing.served import TINY_BLOCK_BYTES, greedy, token_ids, tokens

    llm = LLM(
        model=sys.argv[1],
        dtype="float32",
        enforce_eager=True,
        seed=0,
        block_size=32,
        max_model_len=1024,
        num_gpu_blocks_override=40,
        disable_log_stats=False,
        tensor_parallel_size=2,
        distributed_executor_backend="mp",
        additional_config={
            "pensieve": {"host_cache_gib": 200 * TINY_BLOCK_BYTES / 2**30, "verify_swaps": True}
        },
    )
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    prompts = [{"prompt_token_ids": tokens(700, seed=seed)} for seed in range(3)]
    rounds = [
        [token_ids(llm.generate([prompt], greedy(8), use_tqdm=False)[0]) for prompt in prompts]
        for _ in range(2)
    ]
    sources = scheduler.pensieve_stats.prompt_tokens
    print(json.dumps({"slots": scheduler.connector.num_slots, "rounds": rounds, **sources}))


if __name__ == "__main__":  # the workers import this module again
    from vllm_pensieve.testing import environment

    environment.apply()
    main()
