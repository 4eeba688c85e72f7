#!/usr/bin/env python
"""Record a trace of ShareGPT requests of one turn: /tmp/prefix_metrics_sharegpt_single_requests.jsonl and
_blocks.jsonl.

    python scripts/run_sharegpt_prefix_single.py [--dataset NAME|FILE|generated] [--model NAME] [--simulate] [--out DIR]

The same as `pensieve trace collect sharegpt --mode single --block-tokens 16 --requests-per-s 0.2`. Blocks of 16 tokens
can be merged into those of 32 and 64 afterwards; on a CPU vLLM runs no model with them, so that the trace is recorded
without it, and the output says so.
"""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    options = ["--mode", "single", "--block-tokens", "16", "--requests-per-s", "0.2"]
    sys.argv[1:1] = ["trace", "collect", "sharegpt", *options]
    main()
