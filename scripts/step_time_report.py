"""What scripts/step_time.py prints, and what it writes as JSON."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from step_time_attribution import ELSEWHERE, FUNCTIONS
from step_time_session import BLOCK_TOKENS, CASES
from step_time_sides import BASES, SIDES

from vllm_pensieve.machine import describe_machine, describe_versions

SCHEMA = 2
BUSY = 1.05
"""Wall time over CPU time from which on other programs are said to have disturbed a run."""

Converter = Callable[[str], int]
Cases = dict[str, dict[str, float]]
Sessions = dict[int, dict[str, list[Cases]]]


@dataclass(frozen=True)
class Section:
    """A part of what was measured: its name and figures in the JSON, and its tables as text."""

    name: str
    figures: Any
    text: str


def write_json(path: Path, sections: Sequence[Section], options: argparse.Namespace) -> None:
    """All figures with what they were measured on and with."""
    content = {
        "schema": SCHEMA,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "options": {name: value for name, value in vars(options).items() if name != "json"},
    } | {section.name: section.figures for section in sections}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# -- many conversations


def of_steps(times: dict[str, list[tuple[float, float]]], options: argparse.Namespace) -> Section:
    """times: seconds and CPU seconds of every step, by side."""
    figures: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        walls, cpus = zip(*times[side], strict=True)
        figures[side] = {
            "p50_ms": 1e3 * statistics.median(walls),
            "p99_ms": 1e3 * statistics.quantiles(walls, n=100)[98],
            "cpu_p50_ms": 1e3 * statistics.median(cpus),
        }
        for base in BASES.get(side, ()):
            base_walls, base_cpus = zip(*times[base], strict=True)
            figures[side][f"against {base}"] = {
                "p50_ratio": _ratio(walls, base_walls),
                "cpu_p50_ratio": _ratio(cpus, base_cpus),
                "p50_ratio_of_quarters": [
                    _ratio(part, base_part)
                    for part, base_part in zip(_quarters(walls), _quarters(base_walls), strict=True)
                ],
            }
    rows = []
    for side, of_side in figures.items():
        cells = [f"{of_side['p50_ms']:.3f}", f"{of_side['p99_ms']:.3f}"]
        for base in BASES[HEAVIEST]:
            cells += _ratio_cells(of_side.get(f"against {base}"))
        rows.append([side, *cells])
    heads = ["ms a step", "p50", "p99"]
    for base in BASES[HEAVIEST]:
        heads += [f"p50 / {base}", "in quarters of the run", "CPU time"]
    title = f"{options.running:,} running, {options.idle:,} idle sessions, {options.steps:,} steps of each side"
    return Section("steps", figures, f"{title}\n\n{_table(heads, rows)}{_disturbed(times)}")


HEAVIEST = SIDES[-1]


def _ratio_cells(against: dict[str, Any] | None) -> list[str]:
    if against is None:
        return ["", "", ""]
    quarters = against["p50_ratio_of_quarters"]
    return [
        f"{against['p50_ratio']:.3f}",
        f"{min(quarters):.2f} to {max(quarters):.2f}",
        f"{against['cpu_p50_ratio']:.3f}",
    ]


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of medians."""
    return statistics.median(ours) / statistics.median(theirs)


def _quarters(times: Sequence[float]) -> list[Sequence[float]]:
    bounds = [len(times) * i // 4 for i in range(5)]
    return [times[a:b] for a, b in itertools.pairwise(bounds)]


def _disturbed(times: dict[str, list[tuple[float, float]]]) -> str:
    """A warning if other programs took the processor away meanwhile, else nothing."""
    walls = sum(wall for of_side in times.values() for wall, _ in of_side)
    cpus = sum(cpu for of_side in times.values() for _, cpu in of_side)
    if walls <= BUSY * cpus:
        return ""
    return (
        f"\nThe machine was busy: the steps took {walls / cpus:.2f} times as long as they had a processor for. "
        "Measure again when nothing else runs.\n"
    )


# -- where the time of a step goes


def of_attribution(
    measured: dict[str, dict[str, tuple[int, float]]], options: argparse.Namespace
) -> Section:
    """measured: calls and own CPU seconds of each function, by side."""
    figures: dict[str, dict[str, Any]] = {}
    for side, of_side in measured.items():
        functions = {
            ELSEWHERE.get(name, name): {
                "calls_a_step": of_side.get(name, (0, 0.0))[0] / options.steps,
                "us_a_step": 1e6 * of_side.get(name, (0, 0.0))[1] / options.steps,
            }
            for name in FUNCTIONS
        }
        whole = sum(function["us_a_step"] for function in functions.values())
        figures[side] = {"whole_us_a_step": whole, "functions": functions}
    rows = [_attribution_row("whole step", [figures[s]["whole_us_a_step"] for s in SIDES])]
    for name in (ELSEWHERE.get(name, name) for name in FUNCTIONS):
        per_step = [figures[side]["functions"][name]["us_a_step"] for side in SIDES]
        rows.append(_attribution_row(name, per_step))
    title = (
        f"CPU time in us a step, in brackets above {SIDES[0]}'s; {options.running:,} running, {options.idle:,} idle "
        f"sessions, {options.steps:,} steps of each side.\nThe clocks around these functions cost time themselves."
    )
    return Section("attribution", figures, f"{title}\n\n{_table(['', *SIDES], rows)}")


def _attribution_row(name: str, us: list[float]) -> list[str]:
    cells = [f"{of_side:,.0f} ({of_side - us[0]:+,.0f})" for of_side in us[1:]]
    return [name, f"{us[0]:,.0f}", *cells]


# -- one returning session


def of_sessions(measured: Sessions) -> Section:
    """measured: what was measured of each case in each repeat, by context and side."""
    contexts = [_context_figures(context, of_sides) for context, of_sides in measured.items()]
    smallest, largest = contexts[0], contexts[-1]
    growth = {
        clock: {
            case: {
                side: largest["cases"][case][side][name] / smallest["cases"][case][side][name]
                for side in SIDES
            }
            for case in CASES
        }
        for clock, name in (("wall", "us_a_block"), ("cpu", "cpu_us_a_block"))
    }
    text = "\n".join(_context_text(of_context) for of_context in contexts)
    if len(contexts) > 1:
        rows = [
            [
                case,
                *(f"{growth['wall'][case][s]:.2f} ({growth['cpu'][case][s]:.2f})" for s in SIDES),
            ]
            for case in CASES
        ]
        title = (
            f"Growth of the cost a block from {smallest['blocks']:,} to {largest['blocks']:,} blocks, "
            "in brackets that of the CPU time"
        )
        text += f"\n{title}\n\n{_table(['', *SIDES], rows)}"
    times = {
        side: [
            (case["whole_s"], case["cpu_s"])
            for of_sides in measured.values()
            for repeat in of_sides[side]
            for case in repeat.values()
        ]
        for side in SIDES
    }
    figures = {"contexts": contexts, "growth_of_cost_a_block": growth}
    return Section("sessions", figures, text + _disturbed(times))


def _context_figures(context: int, of_sides: dict[str, list[Cases]]) -> dict[str, Any]:
    blocks = context // BLOCK_TOKENS
    cases: dict[str, dict[str, dict[str, Any]]] = {case: {} for case in CASES}
    for case, by_side in cases.items():
        for side in SIDES:
            repeats = [repeat[case] for repeat in of_sides[side]]
            middle = {name: statistics.median(r[name] for r in repeats) for name in repeats[0]}
            of_side = by_side[side] = {
                "whole_ms": 1e3 * middle["whole_s"],
                "whole_cpu_ms": 1e3 * middle["cpu_s"],
                "longest_schedule_ms": 1e3 * middle["longest_schedule_s"],
                "us_a_block": 1e6 * middle["whole_s"] / blocks,
                "cpu_us_a_block": 1e6 * middle["cpu_s"] / blocks,
                "steps": middle["steps"],
                "resident_share": middle["resident_share"],
                "swapped_share": middle["swapped_share"],
                "whole_ms_of_repeats": [1e3 * r["whole_s"] for r in repeats],
            }
            for base in BASES.get(side, ()):
                of_side[f"against {base}"] = {
                    f"{name}_ratio": of_side[f"{name}_ms"] / by_side[base][f"{name}_ms"]
                    for name in ("whole", "whole_cpu", "longest_schedule")
                }
    return {"context_tokens": context, "blocks": blocks, "cases": cases}


def _context_text(of_context: dict[str, Any]) -> str:
    bases = [f"/ {base.removeprefix('stock, ')}" for base in BASES[HEAVIEST]]
    heads = ["", "", "resident", "swapped", "steps", "us a block", "whole, ms", *bases]
    heads += ["CPU, ms", *bases, "longest schedule, ms", *bases]
    rows = []
    for case, by_side in of_context["cases"].items():
        for side, of_side in by_side.items():
            row = [
                case if side == SIDES[0] else "",
                side,
                f"{of_side['resident_share']:.0%}",
                f"{of_side['swapped_share']:.0%}",
                f"{of_side['steps']:.0f}",
                f"{of_side['us_a_block']:.2f}",
            ]
            for name in ("whole", "whole_cpu", "longest_schedule"):
                row.append(f"{of_side[f'{name}_ms']:.2f}")
                for base in BASES[HEAVIEST]:
                    against = of_side.get(f"against {base}")
                    row.append(f"{against[f'{name}_ratio']:.2f}" if against else "")
            rows.append(row)
    title = f"A session of {of_context['context_tokens']:,} tokens, {of_context['blocks']:,} blocks"
    return f"{title}\n\n{_table(heads, rows)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Names to the left, figures to the right, columns as wide as they need to be."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    names = 2 if heads[:2] == ["", ""] else 1
    lines = [
        "  ".join(
            cell.ljust(width) if column < names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (heads, *rows)
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)
