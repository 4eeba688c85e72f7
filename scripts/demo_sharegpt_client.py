#!/usr/bin/env python
"""Show the events of a ShareGPT client, single-turn and multi-turn, and what vLLM made of them.

python scripts/demo_sharegpt_client.py [--dataset NAME|FILE|generated] [--simulate]
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
