#!/usr/bin/env python
"""Print how much of a recorded trace's prompts was found in the cache.

    python tools/summarize_prefix_stats.py PREFIX

The same as `pensieve trace summarize`.
"""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["trace", "summarize"]
    main()
