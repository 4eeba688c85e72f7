#!/usr/bin/env python
"""Hit rates of cache policies over a range of capacities: `pensieve trace policies`.

python tools/simulate_cache_policies.py PREFIX BLOCK POLICY
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
