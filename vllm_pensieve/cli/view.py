"""What `pensieve compare` shows: progress while it runs, failures as they happen, and the table at
the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from vllm_pensieve.bench.compare import ModeRun
from vllm_pensieve.bench.exchanges import Exchange
from vllm_pensieve.bench.plan import ComparePlan
from vllm_pensieve.bench.remarks import stepped_back_remark
from vllm_pensieve.cli.benchmark_view import phase_lines
from vllm_pensieve.cli.turn_lines import TurnLines
from vllm_pensieve.modes import Mode
from vllm_pensieve.tables import Table, seconds, show
from vllm_pensieve.workloads.dataset import counted

LOG_INTERVAL_S = 10.0
DIFFERENCE_NOTE = (
    "(16-bit arithmetic rounds differently in other batches; "
    "`-- --dtype float32` shows whether that is the only reason)"
)
TABLE_CAPTION = (
    "TTFT: mean time to first token; return, turn 5+: the same from turn 2 on, from turn 5 on; "
    "token: time per output token; "
    "computed, swapped: share of prompt tokens not taken from a cache, and loaded from host memory; "
    "below, in brackets: where a factor lies in 95 % of resamplings of the conversations"
)


class ConsoleView:
    """Shows a bar for each mode and repeat at a terminal, and lines of text in a log: when a mode starts and ends, how
    far it is, and, in both, each turn when all conversations have had it.
    """

    def __init__(self, plan: ComparePlan) -> None:
        self._plan = plan
        self._console = Console()
        self._live = self._console.is_terminal
        self._name = ""
        self._phase = 0
        self._begun_s = self._told_s = 0.0
        self._records: list[Exchange] = []
        self._turns = TurnLines(plan)
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
        )
        self._progress = Progress(*columns, console=self._console, disable=not self._live)
        self._task: TaskID | None = None
        self._failed = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """Show one line of text."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def mode_started(self, mode: Mode, repeat: int) -> None:
        """Show a new progress line."""
        name = (
            mode.name
            if self._plan.repeat == 1
            else f"{mode.name} ({repeat + 1}/{self._plan.repeat})"
        )
        self._failed = 0
        self._name, self._records = name, []
        self._begun_s = self._told_s = time.monotonic()
        self._phase += 1
        for line in phase_lines(self._plan.workload, mode.name, self._phase):
            self.note(line)
        self._log(f"{name}: starting the server")
        self._task = self._progress.add_task(
            name, total=self._plan.requests, state="starting the server"
        )

    def waiting(self, elapsed_s: float) -> None:
        """Show for how long the server has been starting."""
        self._set(state=f"starting the server, {elapsed_s:.0f} s")
        self._log_now_and_then(f"{self._name}: starting the server, {elapsed_s:.0f} s")

    def measuring(self) -> None:
        """Show that requests are being sent."""
        self._set(state="measuring")
        self._log(f"{self._name}: measuring, {self._plan.requests} requests")

    def recorded(self, record: Exchange) -> None:
        """Count a request; show why it failed, if it did."""
        if record.error:
            self._failed += 1
            self.note(f"  {record.session}, turn {record.turn} failed: {record.error}")
        self._records.append(record)
        line = self._turns.line(self._records)
        if line is not None:
            self.note(f"{self._name} {line}")
        self._log_now_and_then(
            f"{self._name}: {len(self._records)} of {self._plan.requests} requests"
        )
        self._set(
            advance=1, state=f"measuring, {self._failed} failed" if self._failed else "measuring"
        )

    def mode_ended(self, run: ModeRun) -> None:
        """Show how the mode went, with the end of its log if the server died.

        When it did not start and the log names the reason, the reason is enough.
        """
        took = f"after {time.monotonic() - self._begun_s:.0f} s"
        if run.unavailable:
            self._set(state="not available")
            self._log(f"{self._name}: not available")
        elif run.failure:
            self._set(state="failed")
            self._log(f"{self._name}: failed {took}")
            if run.start_up_s is not None or run.failure.reason is None:
                self.note(f"{run.mode.name}: {run.failure}. The end of {run.command.log}:")
                self.note(run.failure.log_tail)
        elif run.interrupted:
            self._set(state="interrupted")
            self._log(f"{self._name}: interrupted {took}")
        else:
            state = f"done, {self._failed} failed" if self._failed else "done"
            self._set(state=state)
            self._log(f"{self._name}: {state}, {took}")
        if run.stepped_back:
            self.note(stepped_back_remark(run.mode.name, run.stepped_back))
        if self._task is not None:
            self._progress.stop_task(self._task)

    def _log(self, text: str) -> None:
        """One line where there is no terminal to show a bar."""
        if not self._live:
            self.note(text)

    def _log_now_and_then(self, text: str) -> None:
        if time.monotonic() - self._told_s >= LOG_INTERVAL_S:
            self._told_s = time.monotonic()
            self._log(text)

    def _set(self, **changes: Any) -> None:
        if self._task is not None:
            self._progress.update(self._task, **changes)


def print_summary(
    summary: dict[str, Any], out: Path, files: list[Path], details: Iterable[Table] = ()
) -> None:
    """Print the table, details of a benchmark, the speed-ups, what failed, and where the files are."""
    console = Console()
    if summary["modes"]:
        show(_modes_table(summary["modes"]))
    for detail in details:
        show(detail)
    for pair, speedup in summary["speedup"].items():
        if speedup["ttft_mean"] is None:
            continue
        mode, baseline = pair.split("/")
        console.print(
            f"Speedup, {mode} against {baseline}: {_speedup_text(speedup)}", highlight=False
        )
    for remark in summary["remarks"]:
        console.print(f"note: {escape(remark)}", style="yellow", highlight=False)
    for mode, reason in summary["unavailable"].items():
        console.print(f"{mode} is not available here: {escape(reason)}", highlight=False)
    if summary["outputs_identical"]:
        console.print("all outputs identical")
    for pair, count in summary["outputs_differing"].items():
        if count:
            mode, first = pair.split("/")
            console.print(
                f"{count} requests got another text from {mode} than from {first} {DIFFERENCE_NOTE}",
                highlight=False,
            )
    for failure in summary["failures"]:
        count = sum(failure["requests"].values())
        parts = [f"{count} requests failed" if count else "", failure["server"], failure["reason"]]
        said = ", ".join(part for part in parts if part)
        console.print(f"{failure['mode']}: {escape(said)}", style="red", highlight=False)
    if summary["interrupted"]:
        console.print("interrupted: these are the requests that had finished", style="red")
    names = [
        "summary.json",
        "requests.jsonl",
        "logs/",
        *(file.name for file in files if file.parent == out),
    ]
    elsewhere = [str(file) for file in files if file.parent != out]
    console.print(f"{out}: {', '.join(names)}", highlight=False, soft_wrap=True)
    for file in elsewhere:
        console.print(file, highlight=False, soft_wrap=True)


def print_lines(lines: Iterable[RenderableType]) -> None:
    """Print what a command says last."""
    console = Console()
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _modes_table(modes: dict[str, Any]) -> Table:
    missing = any(numbers["missing"] for numbers in modes.values())
    rows = []
    for name, numbers in modes.items():
        ttft, prompt = numbers["ttft_s"], numbers["prompt_tokens"]
        computed = prompt["recovered"] + prompt["new"] if "new" in prompt else None
        rows.append(
            [
                name,
                f"{numbers['throughput_rps']:.2f}",
                *(seconds(ttft[key]) for key in ("mean", "mean_returning", "mean_turn5plus")),
                seconds(numbers["tpot_s"]["mean"]),
                *(_share(tokens, prompt) for tokens in (computed, prompt.get("swapped"))),
                *([str(numbers["missing"])] if missing else []),
            ]
        )
    headings = ("mode", "req/s", "TTFT", "return", "turn 5+", "token", "computed", "swapped")
    more = ("missing",) if missing else ()
    return Table((*headings, *more), rows, caption=TABLE_CAPTION)


def _share(tokens: float | None, prompt: dict[str, Any]) -> str:
    return "-" if tokens is None or not prompt["total"] else f"{tokens / prompt['total']:.0%}"


def _speedup_text(speedup: dict[str, Any]) -> str:
    """Each factor with where it may lie: in 95 % of resamplings of the conversations, or over the repeats."""
    names = {
        "ttft_mean": "TTFT",
        "ttft_mean_returning": "TTFT of returning turns",
        "ttft_mean_turn5plus": "TTFT from turn 5 on",
    }
    parts = [
        f"{text} {speedup[key]:.2f}x{spread_text(speedup[f'{key}_95'])}"
        for key, text in names.items()
        if speedup[key] is not None
    ]
    if speedup["throughput"] is not None:
        spread = spread_text(speedup["throughput_range"])
        parts.append(f"throughput {speedup['throughput']:.2f}x{spread}")
    over = counted(speedup["requests"], "request")
    return f"{', '.join(parts)}; {over} in {counted(speedup['sessions'], 'conversation')}"


def spread_text(interval: list[float] | None) -> str:
    """Return ` (0.91 to 1.80)` for an interval, with a word if 1 lies in it; nothing for none."""
    if interval is None:
        return ""
    low, high = interval
    chance = ", may be chance" if low <= 1 <= high else ""
    return f" ({low:.2f} to {high:.2f}{chance})"
