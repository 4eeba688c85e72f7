"""The command `pensieve`: one file per command; nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys

import typer

from vllm_pensieve.cli.compare import compare
from vllm_pensieve.cli.serve import serve
from vllm_pensieve.workloads.errors import UsageError

USAGE_STATUS = 2
INTERRUPTED_STATUS = 130

app = typer.Typer(
    name="pensieve",
    help="Serve conversations with vLLM: keep a conversation's KV between its turns, and measure what that gains.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(serve)
app.command()(compare)


def main() -> None:
    """Run the command line. Bad input is one message on standard error and exit status 2, without a traceback."""
    try:
        app()
    except UsageError as error:
        print(f"pensieve: {error}", file=sys.stderr)
        sys.exit(USAGE_STATUS)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_STATUS)
