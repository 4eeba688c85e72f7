#!/usr/bin/env python
"""Check that the next turn of a conversation computes only its new tokens, counted.

    python scripts/test_multiturn.py [--model MODEL] [--device cpu|cuda:0] [-- VLLM_OPTIONS]

Each line is a tick or a cross followed by its numbers; the exit status is 1 if there is a cross.
"""

import typer

from vllm_pensieve.cli import main
from vllm_pensieve.selfcheck.multiturn import check_multiturn
from vllm_pensieve.selfcheck.setting import command

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command(check_multiturn))
    main(app, None)
