#!/usr/bin/env python
"""Record a trace of ShareGPT requests of one turn: /tmp/prefix_chat_single_b32_requests.jsonl and _blocks.jsonl.

    python scripts/run_sharegpt_prefix_single.py [--dataset NAME|FILE|generated] [--model NAME] [--simulate] [--out DIR]

The same as `pensieve trace collect sharegpt --mode single`.
"""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["trace", "collect", "sharegpt", "--mode", "single"]
    main()
