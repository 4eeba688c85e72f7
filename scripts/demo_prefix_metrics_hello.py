#!/usr/bin/env python
"""Greet vLLM a few times, and show how much of each prompt was in the cache.

python scripts/demo_prefix_metrics_hello.py [--simulate] [--out DIR]
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
