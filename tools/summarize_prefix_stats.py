#!/usr/bin/env python
"""Print how much of a recorded trace's prompts was found in the cache: `pensieve trace summarize`.

python tools/summarize_prefix_stats.py PREFIX
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
