#!/usr/bin/env python
"""Check that blocks of running requests are never evicted, and that requests without memory wait their turn.

python scripts/test_chunk_pinning.py [--model MODEL] [--device cpu|cuda:0] [-- VLLM_OPTIONS]
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
