"""`pensieve demo`: what the plugin buys, in a few minutes on two cores and without a download."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

BAR_CELLS = 40
MEANINGS = {
    "vllm": "stock vLLM without prefix caching",
    "vllm-apc": "stock vLLM with its prefix caching",
    "pensieve": "vLLM with this plugin",
}


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results, figures and logs.")] = Path(
        "out/demo"
    ),
) -> None:
    """Compare vLLM without and with the plugin on five chats about long texts.

    KV memory holds about a quarter of the chats and host memory holds all of
    them. The built-in model computes in float32, so that the answers of all modes
    can be compared. `pensieve compare` does the same with options.
    """
    from vllm_pensieve.bench.demo import make_demo_plan
    from vllm_pensieve.cli.compare import carry_out

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise typer.Exit(carry_out(make_demo_plan(out), closing=lambda summary: closing(summary, out)))


def closing(summary: dict[str, Any], out: Path) -> Iterator[RenderableType]:
    """What to remember of a demonstration, where the picture is, and what to do next."""
    from rich.markup import escape

    from vllm_pensieve.bench.demo import returning_ttft_s
    from vllm_pensieve.tables import seconds

    times = returning_ttft_s(summary)
    yield ""
    yield "[bold]When a chat returns, its first token comes after[/]"
    for mode, value in times.items():
        bar = "█" * max(1, round(BAR_CELLS * value / max(times.values())))
        yield f"  {mode:<9} {seconds(value):>8}  {bar}  [dim]{MEANINGS[mode]}[/]"
    if times.keys() >= {"vllm-apc", "pensieve"}:
        yield (
            f"The plugin is {times['vllm-apc'] / times['pensieve']:.1f}x faster here than vLLM's own prefix caching."
        )
    yield f"The picture: {escape(str(out / 'ttft_by_turn.png'))}"
    yield ""
    yield "Next:"
    yield "  pensieve chat                                  talk to a model; `stats` shows what the cache did"
    yield "  pensieve serve MODEL --host-cache-gib GIB      serve a model of yours; all options of vLLM work"
    yield "  pensieve compare --model MODEL --out out/mine  measure it on your machine"
