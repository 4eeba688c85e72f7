#!/usr/bin/env python
"""Print a recorded trace's summary and draw its distributions.

    python tools/analyze_prefix_stats.py PREFIX

The same as `pensieve trace analyze`.
"""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["trace", "analyze"]
    main()
