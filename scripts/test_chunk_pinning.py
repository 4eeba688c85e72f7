#!/usr/bin/env python
"""Check that blocks of running requests are never evicted, and that requests without memory wait their turn.

    python scripts/test_chunk_pinning.py [--model MODEL] [--device cpu|cuda:0] [-- VLLM_OPTIONS]

Each line is a tick or a cross followed by its numbers; the exit status is 1 if there is a cross.
"""

import typer

from vllm_pensieve.cli import main
from vllm_pensieve.selfcheck.chunk_pinning import check_chunk_pinning
from vllm_pensieve.selfcheck.setting import command

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command(check_chunk_pinning))
    main(app, None)
