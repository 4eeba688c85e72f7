#!/usr/bin/env python
"""Hit rates of cache policies over a range of capacities.

    python tools/simulate_cache_policies.py PREFIX BLOCK POLICY

The same as `pensieve trace policies`.
"""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["trace", "policies"]
    main()
