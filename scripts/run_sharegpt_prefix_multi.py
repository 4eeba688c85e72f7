#!/usr/bin/env python
"""Record a trace of ShareGPT requests with transcripts: `pensieve trace collect sharegpt`.

python scripts/run_sharegpt_prefix_multi.py [--mode single|multi] [--dataset ...] [--simulate] [--out DIR]
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
