#!/usr/bin/env python
"""Write down what a ShareGPT client would send and when: `pensieve trace events sharegpt`.

python tools/sharegpt_client_simulator.py [--mode single|multi] [--dataset NAME|FILE|generated] [--out FILE]
"""

from vllm_pensieve.cli.aliases import run

if __name__ == "__main__":
    run(__file__)
