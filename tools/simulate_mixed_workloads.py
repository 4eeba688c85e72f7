#!/usr/bin/env python
"""All traces of a folder share one cache: LRU, FIFO and workload-aware LRU.

    python tools/simulate_mixed_workloads.py DIR

The same as `pensieve trace mix`.
"""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["trace", "mix"]
    main()
