"""Compares two runs of the same tests, given as JUnit files: stock vLLM's first.

The other side is `pensieve`, vLLM with our scheduler, unless a third argument names it.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

BAD = ("failure", "error")


def outcomes(path: Path) -> dict[tuple[str, str], str]:
    """(file, test) -> "passed", "failed" or "skipped"."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & set(BAD) else "skipped" if "skipped" in kinds else "passed"
        found[case.get("classname", ""), case.get("name", "")] = outcome
    return found


def main() -> None:
    stock, ours = outcomes(Path(sys.argv[1])), outcomes(Path(sys.argv[2]))
    side = sys.argv[3] if len(sys.argv) > 3 else "pensieve"
    print(
        f"{'file':<40} {'vllm passed':>11} {'failed':>6}   {side + ' passed':>15} {'failed':>6}   differ"
    )
    for file in dict.fromkeys(file for file, _ in [*stock, *ours]):
        counts = [Counter(side[test] for test in side if test[0] == file) for side in (stock, ours)]
        differ = sum(
            stock.get(test) != ours.get(test) for test in {*stock, *ours} if test[0] == file
        )
        print(
            f"{file.removeprefix('tests.'):<40} {counts[0]['passed']:>11} {counts[0]['failed']:>6}   "
            f"{counts[1]['passed']:>15} {counts[1]['failed']:>6}   {differ:>6}"
        )
    broken = [test for test in stock if stock[test] == "passed" and ours.get(test) != "passed"]
    for file, test in broken:
        print(
            f"passes with stock vLLM and not with {side}: {file}::{test} ({ours.get((file, test), 'not run')})"
        )
    if broken or not any(outcome == "passed" for outcome in stock.values()):
        sys.exit("conformance: FAILED")
    print(f"conformance: every test that passes with stock vLLM passes with {side}")


if __name__ == "__main__":
    main()
