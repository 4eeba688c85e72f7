#!/usr/bin/env python
"""Check that the next turn of a conversation computes only its new tokens, counted.

python scripts/test_multiturn.py [--model MODEL] [--device cpu|cuda:0] [-- VLLM_OPTIONS]
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
