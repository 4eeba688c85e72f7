#!/usr/bin/env python
"""Record a trace of ShareGPT requests with transcripts: /tmp/prefix_chat_multi_b32_requests.jsonl and _blocks.jsonl.

    [PREFIX_MODE=single|multi] python scripts/run_sharegpt_prefix_multi.py [--mode single|multi] [--dataset ...]

The same as `pensieve trace collect sharegpt`.
"""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["trace", "collect", "sharegpt"]
    main()
