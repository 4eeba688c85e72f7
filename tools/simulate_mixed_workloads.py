#!/usr/bin/env python
"""All traces of a folder share one cache: `pensieve trace mix`.

python tools/simulate_mixed_workloads.py DIR
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
