#!/usr/bin/env python
"""Exactness, float32: multi-turn requests under heavy eviction give the tokens of stock vLLM with ample memory.

    python scripts/exactness.py [--sessions 25] [--turns 8] [--capacity 0.15] [--host 0] [--sampling] [--json OUT]

With --host, blocks that leave the memory go to host memory, checksums on; the README's run is
`--sessions 64 --turns 16 --capacity 0.1 --host 0.3`. With --sampling the requests take turns at ways to sample: with
seeds, top-p, penalties, several choices, structured outputs, log-probabilities. (Prompts of requests with a seed are
never computed in parts on a CPU, so fewer tokens are recovered.) Without options it takes about two minutes on two
cores of a CPU.
Exit status 1 if a token differs, if recovery was hardly used, or if the control goes unnoticed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_pensieve.testing import environment

if TYPE_CHECKING:
    from vllm_pensieve.testing.exactness import Report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=25)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument(
        "--capacity", type=float, default=0.15, help="memory as a share of the working set"
    )
    parser.add_argument(
        "--host", type=float, default=0.0, help="host memory as a share of the working set"
    )
    parser.add_argument(
        "--sampling", action="store_true", help="sample in every way, not greedily alone"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    environment.apply()
    from vllm_pensieve.testing import exactness
    from vllm_pensieve.testing.models import make_llama
    from vllm_pensieve.testing.sampling import WAYS

    engines: list[object] = []
    with tempfile.TemporaryDirectory() as folder:
        report = exactness.run(
            make_llama(Path(folder)),
            options.sessions,
            options.turns,
            options.capacity,
            options.host,
            options.seed,
            engines.append,
            tuple(WAYS) if options.sampling else ("greedy",),
        )
    machine = describe_machine()
    failures = report.failures(recovered_above=0.05 if options.sampling else 0.3)
    print_report(report, failures, machine)
    if options.json:
        text = exactness.as_json(report, failures, machine)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 1 if failures else 0


def describe_machine() -> dict[str, str | int | None]:
    import torch
    import vllm

    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vllm": vllm.__version__,
        "vllm-pensieve": metadata.version("vllm-pensieve"),
    }


def print_report(report: Report, failures: list[str], machine: dict[str, str | int | None]) -> None:
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(
        f"{report.requests} requests, {report.prompt_tokens} prompt tokens, float32; memory {report.capacity_blocks} "
        f"blocks, {report.capacity_blocks / report.working_set_blocks:.0%} of the working set of "
        f"{report.working_set_blocks}, host memory {report.host_blocks} blocks; reference: vllm-apc with ample memory"
    )
    print("sampled:", ", ".join(f"{way} {count}" for way, count in report.ways.items()))
    heads = [
        "",
        "answered",
        "wrong requests",
        "wrong tokens",
        "logprob diff",
        "resident",
        "swapped",
        "recovered",
        "new",
        "all four",
        "preemptions",
    ]
    print(f"{heads[0]:34}", *(f"{head:>16}" for head in heads[1:]), sep="")
    for r in [*report.results, report.control]:
        cells = [
            f"{r.answered}",
            f"{r.differing_requests} of {r.requests}",
            f"{r.differing_tokens} of {r.output_tokens}",
            f"{r.largest_logprob_difference:.1e}",
            f"{r.resident_share:.1%}",
            f"{r.swapped_share:.1%}",
            f"{r.recovered_share:.1%}",
            f"{r.new_share:.1%}",
            f"{r.prompts_of_all_sources}",
            f"{r.preemptions}",
        ]
        print(f"{r.arm:34}", *(f"{cell:>16}" for cell in cells), sep="")
    for failure in failures:
        print("FAILED:", failure)


if __name__ == "__main__":
    sys.exit(main())
