#!/usr/bin/env python
"""Show the events of a ShareGPT client, single-turn and multi-turn, and what vLLM made of them.

python scripts/demo_sharegpt_client.py [--dataset NAME|FILE|generated] [--simulate]
"""

import typer

from vllm_pensieve.cli import main
from vllm_pensieve.cli.demos import demo_client

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(demo_client)
    main(app, None)
