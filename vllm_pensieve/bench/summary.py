"""Builds `summary.json` from the runs of a comparison, and puts earlier results aside."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllm_pensieve.bench.compare import ModeRun
from vllm_pensieve.bench.plan import ComparePlan, recorded_environment
from vllm_pensieve.bench.remarks import remarks
from vllm_pensieve.bench.speedups import speedups
from vllm_pensieve.bench.statistics import median_of, mode_statistics, outputs_differing
from vllm_pensieve.machine import describe_machine, describe_versions

SCHEMA = 1
RESULT_NAMES = (
    "summary.json",
    "requests.jsonl",
    "logs",
    "ttft_by_turn.png",
    "ttft_by_class.png",
    "throughput.png",
    "prompt_tokens_by_source.png",
)


def build_summary(
    plan: ComparePlan, runs: list[ModeRun], date: str, command: str
) -> dict[str, Any]:
    """Return the summary of the runs so far; `command` is the one that made them.

    Numbers of a mode are medians over its repeats; `repeats` holds each of them. `remarks` says what one should know
    before believing them.
    """
    by_mode = {
        mode.name: [run for run in runs if run.mode is mode and run.records] for mode in plan.modes
    }
    repeats = {
        name: [
            mode_statistics(run.records, run.prompt_tokens, plan.classes, plan.requests)
            | {"start_up_s": run.start_up_s, "cache": run.cache}
            for run in mode_runs
        ]
        for name, mode_runs in by_mode.items()
        if mode_runs
    }
    modes = {name: median_of(statistics) for name, statistics in repeats.items()}
    differing = outputs_differing(
        {
            name: _outputs(mode_runs[0])
            for name, mode_runs in by_mode.items()
            if mode_runs and _outputs(mode_runs[0])
        }
    )
    summary: dict[str, Any] = {
        "schema": SCHEMA,
        "date": date,
        "command": command,
        "interrupted": any(run.interrupted for run in runs),
        "workload": plan.workload,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "outputs_identical": not any(differing.values()) if differing else None,
        "outputs_differing": differing,
        "modes": modes,
        "speedup": speedups(
            {name: [run.records for run in by_mode[name]] for name in modes}, plan.classes
        ),
        "repeats": repeats,
        "servers": {run.mode.name: _server(run) for run in runs if run.repeat == 0},
        "stepped_back": {run.mode.name: run.stepped_back for run in runs if run.stepped_back},
        "unavailable": {
            run.mode.name: run.failure.reason or str(run.failure)
            for run in runs
            if run.unavailable and run.failure is not None
        },
        "failures": [
            _failure(run)
            for run in runs
            if not run.unavailable and (run.failure or any(record.error for record in run.records))
        ],
    }
    return summary | {"remarks": remarks(summary)}


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write the summary next to its place and rename it, so that a reader never sees half of it."""
    work = path.with_suffix(".json.partial")
    work.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    os.replace(work, path)


def put_earlier_results_aside(out: Path) -> Path | None:
    """Make the folder; move results that are in it already to `out/earlier/DATE`, and return that
    folder (None: there were none).
    """
    out.mkdir(parents=True, exist_ok=True)
    earlier = [out / name for name in RESULT_NAMES if (out / name).exists()]
    if not earlier:
        return None
    modified = datetime.fromtimestamp(max(path.stat().st_mtime for path in earlier), UTC)
    folder = out / "earlier" / modified.strftime("%Y-%m-%dT%H%M%S.%fZ")
    folder.mkdir(parents=True)
    for path in earlier:
        path.rename(folder / path.name)
    return folder


def _outputs(run: ModeRun) -> dict[tuple[str, int], str]:
    return {
        (record.session, record.turn): record.output_sha256
        for record in run.records
        if record.output_sha256
    }


def _server(run: ModeRun) -> dict[str, Any]:
    return {
        "meaning": run.mode.meaning,
        "command": list(run.command.arguments),
        "environment": recorded_environment(run.command.environment),
    }


def _failure(run: ModeRun) -> dict[str, Any]:
    errors: dict[str, int] = {}
    for record in run.records:
        if record.error:
            errors[record.error] = errors.get(record.error, 0) + 1
    return {
        "mode": run.mode.name,
        "repeat": run.repeat,
        "requests": errors,
        "server": str(run.failure) if run.failure else None,
        "reason": run.failure.reason if run.failure else None,
        "log_tail": run.failure.log_tail.splitlines() if run.failure else None,
    }
