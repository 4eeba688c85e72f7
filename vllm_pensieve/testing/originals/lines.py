"""A line of the originals, and how it runs here: `main.py` becomes `-m vllm_pensieve`, everything else stays."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NOT_MENTIONED = ("VLLM_LOGGING_LEVEL", "VLLM_CPU_KVCACHE_SPACE", "MAX_NEW_TOKENS")
"""Variables of the tests' own environment that a person at a terminal would not have."""


@dataclass(frozen=True)
class Line:
    """One command of an original: the file and the line it begins in, and its text as it stands there."""

    place: str
    text: str

    @property
    def command(self) -> str:
        """What bash is given."""
        return re.sub(r"\bmain\.py\b", "-m vllm_pensieve", self.text)

    def arguments(self, **variables: str) -> list[str]:
        """The words after the program's name, with the shell's variables filled in; redirections are left out."""
        text = self.command.split("-m vllm_pensieve", 1)[1].replace("\\\n", " ")
        for name, value in variables.items():
            text = text.replace(f"${name}", value)
        words = shlex.split(text)
        ends = [i for i, word in enumerate(words) if word in ("|", "&", ">", "2>&1", ">>", ";")]
        return words[: min(ends, default=len(words))]


@dataclass(frozen=True)
class Done:
    """How a line went: exit status, both outputs together, seconds."""

    status: int
    output: str
    seconds: float


def run_line(
    line: Line,
    folder: Path,
    *,
    more: Sequence[str] = (),
    typed: str = "",
    variables: Mapping[str, str] | None = None,
    timeout_s: float = 600.0,
) -> Done:
    """Run a line by bash in `folder`, as it stands there.

    more: further words at the end of the line. typed: standard input. variables: of the shell. A pipe's status is that
    of the command, and a line that ends in `&` is waited for. Raises subprocess.TimeoutExpired.
    """
    environment = {name: value for name, value in os.environ.items() if name not in NOT_MENTIONED}
    program = Path(sys.executable).parent
    environment |= {"PATH": f"{program}{os.pathsep}{environment['PATH']}", "HF_HUB_OFFLINE": "1"}
    environment |= variables or {}
    command = line.command + "".join(f" {shlex.quote(word)}" for word in more)
    script = f"set -o pipefail\n{command}\n"
    if line.text.rstrip().endswith("&"):
        script += "wait $!\n"
    begun = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    return Done(done.returncode, done.stdout, time.monotonic() - begun)
