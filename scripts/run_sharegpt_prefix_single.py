#!/usr/bin/env python
"""Record a trace of ShareGPT requests of one turn: `pensieve trace collect sharegpt --mode single`.

python scripts/run_sharegpt_prefix_single.py [--dataset NAME|FILE|generated] [--model NAME] [--simulate] [--out DIR]
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
