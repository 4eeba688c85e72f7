"""Which copies `pensieve bench transfers` measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from vllm_pensieve.bench.checks import check_choice

DEVICES = ("auto", "cpu", "cuda")
PATTERNS = ("sequence", "scattered")


@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """What to measure. Raises UsageError for an unknown pattern or device."""

    model: Annotated[
        str, Option(help="Whose KV is copied: `demo`, a config.json, or a folder with one.")
    ] = "demo"
    blocks: Annotated[tuple[int, ...], Option(help="Comma-separated: blocks of one copy.")] = (
        1,
        10,
        100,
        1000,
    )
    block_tokens: Annotated[tuple[int, ...], Option(help="Comma-separated: tokens of a block.")] = (
        16,
        32,
        64,
    )
    pattern: Annotated[
        str, Option(help="Which blocks and slots: sequence, scattered, or both (by comma).")
    ] = "sequence,scattered"
    repeats: Annotated[
        int, Option(min=1, help="Measure everything this many times; medians are reported.")
    ] = 5
    device: Annotated[str, Option(help="Where the KV cache is: auto, cpu or cuda.")] = "auto"
    json: Annotated[Path | None, Option(metavar="FILE", help="Write all numbers to this file.")] = (
        None
    )

    def __post_init__(self) -> None:
        check_choice("--device", self.device, DEVICES)
        for pattern in self.patterns:
            check_choice("--pattern", pattern, PATTERNS)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns by name, each once."""
        return tuple(dict.fromkeys(part.strip() for part in self.pattern.split(",")))

    def described(self) -> dict[str, object]:
        """As it stands in the file of numbers."""
        own = ("model", "blocks", "block_tokens", "repeats", "patterns", "device")
        return {name: getattr(self, name) for name in own}
