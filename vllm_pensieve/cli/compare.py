"""`pensieve compare`: the same conversations against each way of serving."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vllm_pensieve.bench.options import make_plan
from vllm_pensieve.bench.plan import ComparePlan, recorded_environment
from vllm_pensieve.bench.run_options import CompareOptions
from vllm_pensieve.cli.options import takes
from vllm_pensieve.config import MAX_NEW_TOKENS
from vllm_pensieve.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from vllm_pensieve.tables import Table

FAILED_STATUS = 1
INTERRUPTED_STATUS = 130


@takes(CompareOptions)
def compare(options: CompareOptions) -> int:
    """Measure vLLM with and without the plugin on the same conversations.

    Each mode's server runs alone, is driven over HTTP by streaming clients, and
    is stopped again. Without options the built-in model talks about texts of
    8,192 tokens, with memory for all of them; `pensieve demo` is a ready-made
    comparison with less memory. Ctrl-C stops the servers and keeps what was
    measured.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return carry_out(make_plan(options))


def carry_out(
    plan: ComparePlan,
    details: Callable[[dict[str, Any]], Iterable[Table]] = lambda summary: (),
    closing: Callable[[dict[str, Any]], Iterable[RenderableType]] = lambda summary: (),
) -> int:
    """Run the comparison, write and print its results; return the exit status (1: something failed,
    130: interrupted).

    details: makes from the summary what a benchmark prints after the table of the modes. closing: what is printed last
    when every request was answered.
    """
    from vllm_pensieve.bench.compare import run_comparison
    from vllm_pensieve.bench.figures import draw_figures
    from vllm_pensieve.bench.remarks import skipped_records
    from vllm_pensieve.bench.sheet import write_sheet
    from vllm_pensieve.bench.summary import build_summary, put_earlier_results_aside, write_summary
    from vllm_pensieve.cli.view import ConsoleView, print_lines, print_summary

    command = command_line()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    earlier = put_earlier_results_aside(plan.out)
    with ConsoleView(plan) as view:
        if earlier:
            view.note(f"earlier results are now in {earlier}")
        for note in plan.notes:
            view.note(note)
        for remark in skipped_records(plan.workload):
            view.note(remark)
        runs = run_comparison(
            plan,
            view,
            lambda runs: write_summary(
                plan.out / "summary.json", build_summary(plan, runs, date, command)
            ),
        )
    first = runs[0]
    if (
        first.failure
        and not first.unavailable
        and first.start_up_s is None
        and first.failure.reason
    ):
        raise UsageError(
            f"the server of mode {first.mode.name} did not start: {first.failure.reason}\nIts log: {first.command.log}"
        )
    summary = build_summary(plan, runs, date, command)
    files = draw_figures(summary, plan.out)
    if plan.sheet is not None:
        write_sheet(plan.sheet, summary)
        files.append(plan.sheet)
    print_summary(summary, plan.out, files, details(summary))
    if summary["interrupted"]:
        return INTERRUPTED_STATUS
    if summary["failures"]:
        return FAILED_STATUS
    print_lines(closing(summary))
    return 0


def command_line() -> str:
    """Return the command that this process was started with, after the variables that change its result."""
    environment = {
        name: value
        for name, value in recorded_environment(dict(os.environ)).items()
        if not name.startswith("VLLM_PENSIEVE")
    }
    if os.environ.get(MAX_NEW_TOKENS):
        environment[MAX_NEW_TOKENS] = os.environ[MAX_NEW_TOKENS]
    variables = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*variables, shlex.join(["pensieve", *sys.argv[1:]])])
