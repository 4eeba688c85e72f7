"""Runs every command line of the Pensieve guide as it stands there, and writes how each went as a table.

The models are tiny random ones in folders of the names that the lines have, so that no hub and no GPU is needed; times
are those of this machine as it was. Lines that say the same are run once. The table is written after every line, and
what it was made of kept in the folder: a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllm_pensieve.machine import describe_machine, describe_versions
from vllm_pensieve.testing.originals.guide_lines import GUIDE_LINES
from vllm_pensieve.testing.originals.lines import Line, run_line
from vllm_pensieve.testing.originals.models import make_models

ROOT = Path(__file__).parents[1]
TYPED = (
    "What is machine learning?\nCan you give me a real-world example?\n"
    "How does that example use neural networks?\n"
    "What are the advantages of neural networks in this case?\nWhat are the limitations?\nstats\nexit\n"
)
"""What the guide asks in a chat, in its order."""
KEY_FIGURES = (
    (r"^Speedup, pensieve against vllm: (TTFT [\d.]+x)", "{} against vllm"),
    (r"^Speedup, pensieve against vllm: .*?(TTFT from turn 5 on [\d.]+x)", "{}"),
    (r"^GPU hit rate +(\S+)", "GPU hits {}"),
    (r"^CPU hit rate +(\S+)", "CPU hits {}"),
    (r"^Speedup by turn .*?(5: [\d.]+x)", "TTFT of turn 1 / turn {}"),
    (r"^ pensieve +([\d.]+%) +[\d.]+% +[\d.]+% +[\d.]+% *$", "GPU hits {}"),
    (r"^ pensieve +[\d.]+% +([\d.]+%) +[\d.]+% +[\d.]+% *$", "CPU hits {}"),
    (r"^memory: (--gpu-cache .*? GB) asked for", "less memory than {}"),
    (r"STEPPED BACK", "the plugin stepped back"),
    (r"^(ShareGPT is not available)", "generated texts"),
    (r"^(Cache statistics: N/A)", "stateless"),
)
"""What the output of a line is searched for, and how it is reported."""


def main() -> None:
    """Run the lines and write the table; exit status 1 if one did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "out" / "originals")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "originals.md")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds a line may take")
    parser.add_argument("--only", default="", help="lines whose text or place contains this")
    options = parser.parse_args()
    folder = options.folder.absolute()
    (folder / "results").mkdir(parents=True, exist_ok=True)
    make_models(folder)
    lines = [line for line in GUIDE_LINES if options.only in f"{line.place} {line.text}"]
    kept = folder / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    begun = datetime.now(UTC).isoformat(timespec="minutes")
    for line in _each_kind_first(lines):
        key = _same(line)
        if key not in results:
            results[key] = _run(line, folder, options.timeout)
            kept.write_text(json.dumps(results, indent=1))
            print(
                f"{line.place}: {results[key]['how']}, {results[key]['seconds']:.0f} s", flush=True
            )
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(_page(GUIDE_LINES, results, begun), encoding="utf-8")
    sys.exit(any(result["how"] != "ok" for result in results.values()))


def _same(line: Line) -> str:
    """What lines that ask for the same have in common."""
    return " ".join(line.command.replace("\\\n", " ").split())


def _each_kind_first(lines: Sequence[Line]) -> list[Line]:
    """One line of each kind, then the others; quick ones first, so that an interrupted run reports on many."""
    firsts: dict[tuple[object, ...], Line] = {}
    for line in lines:
        model = re.search(r"--model (\S+)", line.text)
        several = "--num-concurrent-users" in line.text
        firsts.setdefault((_effort(line), model and model[1], several), line)
    rest = [line for line in lines if line not in firsts.values()]
    return [*sorted(firsts.values(), key=_effort), *sorted(rest, key=_effort)]


def _effort(line: Line) -> int:
    """0 for a demonstration, 1 for a chat, 2 for a comparison, 3 for a data set."""
    if "--dataset" in line.text:
        return 3
    return 2 if "--mode compare" in line.text else int("--interactive" in line.text)


def _run(line: Line, folder: Path, timeout_s: float) -> dict[str, Any]:
    typed = TYPED if "--interactive" in line.text else ""
    load = os.getloadavg()[0]
    try:
        done = run_line(line, folder, typed=typed, variables={"model": "gpt2"}, timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        return {"how": "not done in time", "seconds": timeout_s, "load": load, "figures": ""}
    output = done.output
    if redirected := re.search(r"> (\S+) 2>&1", line.text):
        name = redirected[1].replace("${model//\\//_}", "gpt2")
        output += (folder / name).read_text(errors="replace")
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / f"{line.place.replace(':', '-')}.log").write_text(output)
    how = "ok" if done.status == 0 else "refused" if done.status == 2 else f"status {done.status}"
    figures = [
        text.format(*found.groups())
        for pattern, text in KEY_FIGURES
        if (found := re.search(pattern, output, re.MULTILINE))
    ]
    if how != "ok":
        figures = [output.strip().splitlines()[-1] if output.strip() else "no output"]
    return {"how": how, "seconds": done.seconds, "load": load, "figures": "; ".join(figures)}


def _page(lines: Sequence[Line], results: dict[str, dict[str, Any]], begun: str) -> str:
    machine = describe_machine()
    versions = ", ".join(f"{name} {said}" for name, said in describe_versions().items())
    cores: Any = machine["cores"]
    loads = [result["load"] for result in results.values()]
    busy = max(loads) > cores
    warning = (
        f"\n**Other programs ran meanwhile: the load average was {min(loads):.1f} to {max(loads):.1f} on {cores} "
        "cores. Times and speed-ups say nothing but that the lines work.**\n"
        if busy
        else ""
    )
    done = [result["how"] for result in results.values()]
    rows = []
    for line in lines:
        result = results.get(_same(line))
        text = " ".join(line.text.replace("\\\n", " ").split()).replace("|", "\\|")
        cells = [line.place, f"`{text}`"]
        if result is None:
            cells += ["not run", "", ""]
        else:
            cells += [
                result["how"],
                f"{result['seconds']:.0f}",
                result["figures"].replace("|", "\\|"),
            ]
        rows.append(f"| {' | '.join(cells)} |\n")
    return (
        "# The lines of the Pensieve guide, run\n\n"
        "`python -m vllm_pensieve` stands for `python main.py`; everything else is as the guide has it. "
        "The models are tiny random ones under the names that the lines have, on the CPU build: what is shown is that "
        "each line does what it says, not how fast a real model is. Lines that say the same were run once.\n\n"
        f"{begun}, {machine['processor']}, {cores} cores; {versions}. "
        f"{done.count('ok')} of {len(done)} different lines ended well, of {len({_same(line) for line in lines})}; "
        f"{len(lines)} lines in all. Command: `python scripts/originals.py`\n"
        f"{warning}\n"
        "| place | line | result | seconds | key figures |\n|---|---|---|---|---|\n" + "".join(rows)
    )


if __name__ == "__main__":
    main()
