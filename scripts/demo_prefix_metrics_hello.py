#!/usr/bin/env python
"""Greet vLLM a few times, and show how much of each prompt was in the cache.

python scripts/demo_prefix_metrics_hello.py [--simulate] [--out DIR]

The trace is /tmp/prefix_metrics_toy_requests.jsonl and _blocks.jsonl.
"""

import typer

from vllm_pensieve.cli import main
from vllm_pensieve.cli.demos import demo_hello

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(demo_hello)
    main(app, None)
