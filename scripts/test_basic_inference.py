#!/usr/bin/env python
"""Check that a model is served with the plugin: it starts, answers, answers the same again, streams, counts.

python scripts/test_basic_inference.py [--model MODEL] [--device cpu|cuda:0] [-- VLLM_OPTIONS]
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
