#!/usr/bin/env python
"""What one engine step costs in the scheduler: ours compared with stock vLLM's, without a model.

    python scripts/step_time.py [--running 200] [--idle 2000] [--steps 1000] [--json OUT]
    python scripts/step_time.py --attribute [--running 200] [--idle 2000] [--steps 1000] [--json OUT]
    python scripts/step_time.py --context 8192,32768,131072 [--repeats 5] [--json OUT]
    python scripts/step_time.py --attribute --context 8192,32768,131072      # both

Four sides, each in a process of its own: stock vLLM, stock vLLM with a KV connector that does nothing (the fair
comparison for a host tier, which needs vLLM's connector path), the plugin, and the plugin with a host tier. They take
turns and never run at the same time, so that all meet the same noise of the machine. Every side serves the same
requests. Timed is `schedule` plus `update_from_output`.

Without --attribute and --context: many conversations, so many of them running at a time and so many more idle; memory
holds the running ones and half of the idle ones, so that blocks are evicted all the time. When a request ends, the next
session returns with its history and a new message. The sides take turns of twenty steps.

--attribute: the same conversations, with clocks around functions that run a few times a step. The clocks cost time
themselves, so a whole step takes longer than without them: compare the sides of one table.

--context: one session of so many tokens, alone in its scheduler, in blocks of 16 tokens and with 8,192 tokens a step.
It comes for the first time, with memory empty and with memory full; it returns when all of it is in memory, half, and
none. What has left memory is in host memory where there is a host tier, and nowhere else.

Needs the development setup (make setup-dev), and a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import step_time_report as report
from step_time_process import SideProcess
from step_time_sides import SIDES

STEPS_A_TURN = 20


def main() -> None:
    options = parse()
    processes = {side: SideProcess(side) for side in SIDES}
    sections = []
    if not (options.attribute or options.context):
        sections.append(report.of_steps(measure_steps(processes, options), options))
    if options.attribute:
        sections.append(report.of_attribution(attribute_steps(processes, options), options))
    if options.context:
        sections.append(report.of_sessions(measure_sessions(processes, options)))
    for process in processes.values():
        process.close()
    print("\n\n".join(section.text for section in sections))
    if options.json:
        report.write_json(options.json, sections, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--running", type=at_least(1), default=200, help="requests at a time")
    parser.add_argument("--idle", type=at_least(0), default=2000, help="sessions besides those")
    parser.add_argument(
        "--steps", type=at_least(4), default=1000, help="measured steps of each side"
    )
    parser.add_argument("--attribute", action="store_true", help="where the time of a step goes")
    parser.add_argument(
        "--context", type=contexts, metavar="TOKENS,...", help="one returning session, so long"
    )
    parser.add_argument(
        "--repeats", type=at_least(1), default=5, help="of each --context; the median counts"
    )
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def at_least(least: int) -> report.Converter:
    """What argparse converts a number with."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return number


def contexts(text: str) -> list[int]:
    """Numbers of tokens, the smallest first."""
    return sorted({at_least(512)(part.strip()) for part in text.split(",")})


def measure_steps(
    processes: dict[str, SideProcess], options: argparse.Namespace
) -> dict[str, list[tuple[float, float]]]:
    """Seconds and CPU seconds of every step, by side."""
    begin_traffic(processes, options)
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for sides, count in turns(options.steps):
        for side in sides:
            times[side] += processes[side].ask("make_steps", count)
    return times


def attribute_steps(
    processes: dict[str, SideProcess], options: argparse.Namespace
) -> dict[str, dict[str, tuple[int, float]]]:
    """Calls and own CPU seconds of each function, by side."""
    begin_traffic(processes, options)
    for process in processes.values():
        process.ask("attribute")
    for sides, count in turns(options.steps):
        for side in sides:
            processes[side].ask("make_steps", count)
    return {side: process.ask("attributed") for side, process in processes.items()}


def begin_traffic(processes: dict[str, SideProcess], options: argparse.Namespace) -> None:
    for process in processes.values():
        process.ask("begin_traffic", options.running, options.idle)


def turns(steps: int) -> list[tuple[tuple[str, ...], int]]:
    """The sides in the order of each turn, and how many steps each makes in it; another begins every time."""
    counts = [min(STEPS_A_TURN, steps - done) for done in range(0, steps, STEPS_A_TURN)]
    return [(rotated(turn), count) for turn, count in enumerate(counts)]


def measure_sessions(
    processes: dict[str, SideProcess], options: argparse.Namespace
) -> report.Sessions:
    """By context, and by side, what was measured of each case in each repeat. The first repeat is not counted."""
    for process in processes.values():
        process.ask("returning_session", options.context[0])
    return {
        context: measure_context(processes, context, options.repeats) for context in options.context
    }


def measure_context(
    processes: dict[str, SideProcess], context: int, repeats: int
) -> dict[str, list[report.Cases]]:
    measured: dict[str, list[report.Cases]] = {side: [] for side in SIDES}
    for repeat in range(repeats):
        for side in rotated(repeat):
            measured[side].append(processes[side].ask("returning_session", context))
    return measured


def rotated(turn: int) -> tuple[str, ...]:
    first = turn % len(SIDES)
    return SIDES[first:] + SIDES[:first]


if __name__ == "__main__":
    main()
