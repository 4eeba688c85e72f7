"""The command `pensieve`: one file per command; nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys

import typer

from vllm_pensieve.cli.bench import app as bench_app
from vllm_pensieve.cli.chat import chat as chat_command
from vllm_pensieve.cli.compare import compare as compare_command
from vllm_pensieve.cli.demo import demo as demo_command
from vllm_pensieve.cli.guide import BareCommand
from vllm_pensieve.cli.guide import guide as guide_options
from vllm_pensieve.cli.profile import profile as profile_command
from vllm_pensieve.cli.report import report as report_command
from vllm_pensieve.cli.serve import serve as serve_command
from vllm_pensieve.cli.simulate import simulate as simulate_command
from vllm_pensieve.cli.trace import app as trace_app
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import NO_VLLM

USAGE_STATUS = 2
WITH_VLLM = ("vllm", "torch", "transformers", "tokenizers", "safetensors")
"""Packages that vLLM brings along."""
INTERRUPTED_STATUS = 130

app = typer.Typer(
    name="pensieve",
    cls=BareCommand,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.callback(invoke_without_command=True)(guide_options)
app.command("demo")(demo_command)
app.command("serve", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(
    serve_command
)
app.command("chat")(chat_command)
app.command("compare")(compare_command)
app.add_typer(bench_app)
app.command("profile")(profile_command)
app.command("simulate")(simulate_command)
app.command("report")(report_command)
app.add_typer(trace_app, name="trace")


def main(command: typer.Typer = app, name: str | None = "pensieve") -> None:
    """Run the command line, of another command than `pensieve` under the script's own name.

    Bad input is one message on standard error, exit status 2, no traceback.
    """
    try:
        status = command(prog_name=name, standalone_mode=False)
    except UsageError as error:
        status = _refuse(str(error))
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED_STATUS
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in WITH_VLLM:
            raise
        status = _refuse(NO_VLLM)
    except Exception as error:
        message = getattr(error, "format_message", None)  # what the command line parser raises
        if message is None:
            raise
        said = message()
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "pensieve"
        status = _refuse(f"{said} (see `{path} --help`)") if said else USAGE_STATUS
    sys.exit(status or 0)


def _refuse(message: str) -> int:
    print(f"pensieve: {message.removeprefix('pensieve: ')}", file=sys.stderr)
    return USAGE_STATUS
