"""What clients keep of every request and its answer, and the file it is written to while the measurement runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Exchange:
    """One request and its answer, as a client saw them.

    start_s: when it was sent, in seconds since its mode's first request could be sent.

    A request that failed, or was not sent because of an earlier failure in its session, has `error`
    and no times.
    """

    session: str
    turn: int
    """From 1."""
    start_s: float
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ttft_s: float | None = None
    """Seconds from sending to the first token, of thoughts as well as of the answer."""
    e2e_s: float | None = None
    """Seconds from sending to the end of the stream."""
    output_sha256: str | None = None
    """Of all that was generated, thoughts included."""
    unmatched_tokens: int = 0
    """Tokens that the turn before left computed, prompt and reply, and that this prompt does not repeat: from where the
    reply became other tokens when it was sent back, or the chat template changed what was said.
    """
    reasoning_only: bool = False
    """Whether the reply is thoughts without an answer."""
    error: str | None = None

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first; None with fewer than two."""
        if self.ttft_s is None or self.e2e_s is None or self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


def text_digest(text: str) -> str:
    """Return the SHA-256 of a reply, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


class ExchangeFile:
    """`requests.jsonl`: one line per request with its mode and repeat, each flushed, so an
    interruption loses none.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8")

    def write(self, mode: str, repeat: int, record: Exchange) -> None:
        """Append one record; `repeat` counts from 0."""
        self._file.write(json.dumps({"mode": mode, "repeat": repeat, **asdict(record)}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
