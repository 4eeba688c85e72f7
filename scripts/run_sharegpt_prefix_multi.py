#!/usr/bin/env python
"""Record a trace of ShareGPT requests with transcripts: /tmp/prefix_metrics_sharegpt_multi_requests.jsonl and
_blocks.jsonl.

    [PREFIX_MODE=single|multi] python scripts/run_sharegpt_prefix_multi.py [--mode single|multi] [--dataset ...]

The same as `pensieve trace collect sharegpt --block-tokens 16 --requests-per-s 0.2`. Blocks of 16 tokens can be merged
into those of 32 and 64 afterwards; on a CPU vLLM runs no model with them, so that the trace is recorded without it, and
the output says so.
"""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    options = ["--block-tokens", "16", "--requests-per-s", "0.2"]
    sys.argv[1:1] = ["trace", "collect", "sharegpt", *options]
    main()
