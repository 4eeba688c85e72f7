#!/usr/bin/env python
"""Summaries, distributions and hit rates of every trace in a folder.

    python tools/analyze_all_prefix_cache.py DIR

The same as `pensieve trace analyze-all`.
"""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["trace", "analyze-all"]
    main()
