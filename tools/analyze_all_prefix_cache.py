#!/usr/bin/env python
"""Summaries, distributions and hit rates of every trace in a folder: `pensieve trace analyze-all`.

python tools/analyze_all_prefix_cache.py DIR
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
