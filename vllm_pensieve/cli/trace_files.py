"""Files of the `pensieve trace` commands: which traces of a folder are taken, and where figures and numbers go."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vllm_pensieve.errors import UsageError

if TYPE_CHECKING:
    from vllm_pensieve.trace.trace import Trace

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of *_requests.jsonl.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the numbers.")]
Strict = Annotated[bool, typer.Option(help="Stop at the first bad line.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for the figures; the trace's own if not given.")
]

ENDINGS = (".jsonl", ".jsonl.gz", ".*.jsonl", ".*.jsonl.gz")
"""Of whole files, and of parts that a server put aside."""
OF_A_WORKLOAD = re.compile(r"prefix_.+_b\d+_requests\.jsonl(\.gz)?")
"""Names that `pensieve trace collect` gives."""


def trace_files(folder: Path) -> list[Path]:
    """The request files of a folder, by name: those named `prefix_<workload>_b<block>_…` if there are any, else all.

    What is left out is printed. UsageError if there is none.
    """
    from vllm_pensieve.trace.parts import whole_of

    if not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder")
    every = (path for ending in ENDINGS for path in folder.glob(f"*_requests{ending}"))
    found = sorted({whole_of(path) for path in every})
    if not found:
        raise UsageError(f"{folder}: has no *_requests.jsonl; record traces into it first")
    named = [path for path in found if OF_A_WORKLOAD.fullmatch(path.name)]
    if not named:
        return found
    others = [path.name for path in found if path not in named]
    if others:
        print(f"left out, not named prefix_<workload>_b<block>: {', '.join(others)}")
    return named


def find_sized(prefix: Path, block: int) -> Path:
    """The trace of PREFIX, or else of PREFIX_b<block>."""
    from vllm_pensieve.errors import TraceError
    from vllm_pensieve.trace.readers import find_trace

    try:
        return find_trace(prefix)
    except TraceError:
        sized = prefix.with_name(f"{prefix.name}_b{block}")
        try:
            return find_trace(sized)
        except TraceError:
            raise TraceError(
                f"{prefix}: neither {prefix.name}_requests.jsonl nor {sized.name}_requests.jsonl is there; "
                "record the trace first"
            ) from None


def of_one_block_size(traces: list[Trace], block: int | None, folder: Path) -> list[Trace]:
    """Those with blocks of that many tokens; None: of the smallest ones there are. UsageError if there are none."""
    sizes = sorted({trace.block_tokens or 0 for trace in traces})
    chosen = [trace for trace in traces if (trace.block_tokens or 0) == (block or sizes[0])]
    if not chosen:
        there = ", ".join(str(size) if size else "an unknown number of" for size in sizes)
        raise UsageError(
            f"{folder}: no trace has blocks of {block} tokens, only of {there}; choose one of these"
        )
    return chosen


def folder_for(out: Path | None, default: Path) -> Path:
    """`out` or else `default`, made if it is not there."""
    folder = out or default
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {error.strerror}") from error
    return folder


def write_json(content: dict[str, Any], out: Path) -> None:
    """Write it and say so."""
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: written")


def tell(paths: list[Path]) -> None:
    """Say which figures were drawn."""
    for path in paths:
        print(f"{path}: drawn")
