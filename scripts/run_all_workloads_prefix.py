#!/usr/bin/env python
"""Record traces of chat_multi, chat_single, qa and summarization with blocks of 16, 32 and 64 tokens.

    python scripts/run_all_workloads_prefix.py [--dataset NAME|FILE|generated] [--model NAME] [--simulate] [--out DIR]

The same as `pensieve trace collect all --block-tokens 16,32,64 --requests-per-s 0.2`: one new conversation in five
seconds, so that few are under way at the same time. On a CPU vLLM runs no model with blocks of 16 tokens: those traces
are recorded without it, and the output says so.
"""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    options = ["--block-tokens", "16,32,64", "--requests-per-s", "0.2"]
    sys.argv[1:1] = ["trace", "collect", "all", *options]
    main()
