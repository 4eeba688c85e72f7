#!/usr/bin/env python
"""Check that a model is served with the plugin: it starts, answers, answers the same again, streams, counts.

    python scripts/test_basic_inference.py [--model MODEL] [--device cpu|cuda:0] [-- VLLM_OPTIONS]

Each line is a tick or a cross followed by its numbers; the exit status is 1 if there is a cross.
"""

import typer

from vllm_pensieve.cli import main
from vllm_pensieve.selfcheck.basic_inference import check_basic_inference
from vllm_pensieve.selfcheck.setting import command

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command(check_basic_inference))
    main(app, None)
