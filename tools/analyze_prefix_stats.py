#!/usr/bin/env python
"""Print a recorded trace's summary and draw its distributions: `pensieve trace analyze`.

python tools/analyze_prefix_stats.py PREFIX
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
