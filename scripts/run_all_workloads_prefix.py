#!/usr/bin/env python
"""Record traces of all four workloads with blocks of 16, 32 and 64 tokens: `pensieve trace collect all`.

python scripts/run_all_workloads_prefix.py [--dataset NAME|FILE|generated] [--model NAME] [--simulate] [--out DIR]
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
