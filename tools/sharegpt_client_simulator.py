#!/usr/bin/env python
"""Write down what a ShareGPT client would send and when, one JSON object a line.

    python tools/sharegpt_client_simulator.py [--mode single|multi] [--dataset NAME|FILE|generated] [--out FILE]

The same as `pensieve trace events sharegpt`.
"""

import sys

from vllm_pensieve.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["trace", "events", "sharegpt"]
    main()
