"""`pensieve trace`: traces recorded, what their prompts share, and what caches would make of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vllm_pensieve.cli.collect import collect, events
from vllm_pensieve.cli.simulate import BlockTokens, check_writable
from vllm_pensieve.workloads.errors import UsageError

if TYPE_CHECKING:
    from vllm_pensieve.analysis.summaries import PrefixStats
    from vllm_pensieve.trace.trace import Trace

app = typer.Typer(
    help="Recording of traces, their summaries and figures.",
    no_args_is_help=True,
    add_completion=False,
)
app.command("collect")(collect)
app.command("events")(events)

Prefix = Annotated[
    Path, typer.Argument(help="PREFIX of PREFIX_requests.jsonl, or a trace file of any format.")
]
Json = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the numbers.")]
Strict = Annotated[bool, typer.Option(help="Stop at the first bad line.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for the figures; the trace's own if not given.")
]
Capacity = Annotated[
    str | None, typer.Option(help="Comma-separated blocks or percentages of unique blocks.")
]


@app.command("summarize")
def summarize_trace(
    prefix: Prefix,
    json_out: Json = None,
    strict: Strict = False,
    block_tokens: BlockTokens = None,
) -> None:
    """Print how much of the prompts was found in the cache, and how often blocks are used again."""
    from vllm_pensieve.analysis.summaries import read_prefix_stats
    from vllm_pensieve.cli.trace_view import print_summaries

    check_writable(json_out)
    stats = read_prefix_stats(prefix, strict=strict, block_tokens=block_tokens)
    print_summaries([stats])
    _write_summary([stats], json_out)


@app.command("analyze")
def analyze(
    prefix: Prefix,
    out: Out = None,
    json_out: Json = None,
    strict: Strict = False,
    block_tokens: BlockTokens = None,
) -> None:
    """The summary, and the distributions as figures."""
    from vllm_pensieve.analysis.summaries import read_prefix_stats
    from vllm_pensieve.analysis.summary_figures import draw_reuse_cdfs
    from vllm_pensieve.cli.trace_view import print_summaries

    check_writable(json_out)
    stats = read_prefix_stats(prefix, strict=strict, block_tokens=block_tokens)
    print_summaries([stats])
    _write_summary([stats], json_out)
    _tell(draw_reuse_cdfs([stats], _folder(out, prefix.parent)))


@app.command("policies")
def policies(
    prefix: Prefix,
    block: Annotated[int, typer.Argument(min=1, help="Tokens of a block.")],
    policy: Annotated[str, typer.Argument(help="Name of a policy, or several with commas.")],
    out: Out = None,
    capacity: Capacity = None,
    strict: Strict = False,
) -> None:
    """Hit rates of cache policies over a range of capacities, as a table and one figure a policy."""
    from vllm_pensieve.analysis.capacity import curve_capacities, parse_capacities
    from vllm_pensieve.analysis.policies.policy import Parameters
    from vllm_pensieve.analysis.simulate import (
        Simulation,
        default_cost_slope,
        parse_policies,
        simulate,
    )
    from vllm_pensieve.analysis.summaries import trace_label
    from vllm_pensieve.analysis.summary_figures import draw_cache_hits
    from vllm_pensieve.cli.simulate_view import print_results, print_trace

    names = parse_policies(policy.lower())
    trace = _read_sized(prefix, block, strict)
    unique = trace.unique_blocks
    capacities = parse_capacities(capacity, unique) if capacity else curve_capacities(unique)
    parameters = Parameters(default_cost_slope(trace))
    results = simulate(trace, Simulation(names, tuple(capacities), parameters))
    print_trace(trace)
    print_results(results, trace)
    folder = _folder(out, prefix.parent)
    label = trace_label(Path(trace.name))
    paths = []
    for name in names:
        paths.append(folder / f"cache_hits_{label}_{name}.png")
        own = [result for result in results if result.policy == name]
        draw_cache_hits(own, trace, label, paths[-1])
    _tell(paths)


@app.command("analyze-all")
def analyze_all(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of *_requests.jsonl.")],
    policy: Annotated[str, typer.Option(help="Comma-separated policies.")] = "lru,fifo,retention",
    out: Out = None,
    json_out: Json = None,
    strict: Strict = False,
) -> None:
    """Summaries, distributions and hit rates of every trace in a folder."""
    from vllm_pensieve.analysis.capacity import curve_capacities
    from vllm_pensieve.analysis.policies.policy import Parameters
    from vllm_pensieve.analysis.simulate import (
        Simulation,
        default_cost_slope,
        parse_policies,
        simulate,
    )
    from vllm_pensieve.analysis.summaries import read_prefix_stats
    from vllm_pensieve.analysis.summary_figures import draw_cache_hits, draw_reuse_cdfs
    from vllm_pensieve.cli.trace_view import print_summaries

    check_writable(json_out)
    names = parse_policies(policy)
    all_stats = [read_prefix_stats(path, strict=strict) for path in trace_files(folder)]
    target = _folder(out, folder)
    print_summaries(all_stats)
    _write_summary(all_stats, json_out)
    paths = []
    if len(all_stats) > 1:
        paths += draw_reuse_cdfs(all_stats, target, "all")
    for stats in all_stats:
        paths += draw_reuse_cdfs([stats], target)
        capacities = tuple(curve_capacities(stats.trace.unique_blocks))
        parameters = Parameters(default_cost_slope(stats.trace))
        results = simulate(stats.trace, Simulation(names, capacities, parameters))
        for name in names:
            paths.append(target / f"cache_hits_{stats.label}_{name}.png")
            own = [result for result in results if result.policy == name]
            draw_cache_hits(own, stats.trace, stats.label, paths[-1])
    _tell(paths)


@app.command("mix")
def mix(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of *_requests.jsonl.")],
    block: Annotated[
        int | None, typer.Option(min=1, help="Only traces with blocks of so many tokens.")
    ] = None,
    capacity: Capacity = None,
    cache_workloads: Annotated[
        str | None,
        typer.Option(help="What workload-aware LRU keeps; by default what repeats most."),
    ] = None,
    out: Out = None,
    json_out: Json = None,
    strict: Strict = False,
) -> None:
    """All traces of a folder share one cache: LRU, FIFO and workload-aware LRU, by workload and overall."""
    from vllm_pensieve.analysis.capacity import curve_capacities, parse_capacities
    from vllm_pensieve.analysis.mixed import mixed_to_json, simulate_mixed, worth_keeping
    from vllm_pensieve.analysis.policies.policy import Parameters
    from vllm_pensieve.analysis.simulate import Simulation, default_cost_slope
    from vllm_pensieve.analysis.summary_figures import draw_mixed
    from vllm_pensieve.cli.simulate_view import print_trace
    from vllm_pensieve.cli.trace_view import print_mixed
    from vllm_pensieve.trace.combine import interleave
    from vllm_pensieve.trace.readers import read_trace

    check_writable(json_out)
    trace = interleave(_of_block(
        [read_trace(path, strict=strict) for path in trace_files(folder)], block, folder
    ))  # fmt: skip
    target = _folder(out, folder)
    kept = tuple(cache_workloads.split(",")) if cache_workloads else worth_keeping(trace)
    unique = trace.unique_blocks
    capacities = parse_capacities(capacity, unique) if capacity else curve_capacities(unique)
    parameters = Parameters(default_cost_slope(trace), cached_workloads=kept)
    results = simulate_mixed(trace, Simulation((), tuple(capacities), parameters))
    print_trace(trace)
    print_mixed(results, trace, kept)
    if json_out:
        _write_json(mixed_to_json(trace, results, kept), json_out)
    path = target / "cache_hits_mixed.png"
    draw_mixed(results, trace, path)
    _tell([path])


def trace_files(folder: Path) -> list[Path]:
    """The request files of a folder, by name. UsageError if there is none."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: is not a folder")
    found = sorted([*folder.glob("*_requests.jsonl"), *folder.glob("*_requests.jsonl.gz")])
    if not found:
        raise UsageError(f"{folder}: has no *_requests.jsonl; record traces into it first")
    return found


def _read_sized(prefix: Path, block: int, strict: bool) -> Trace:
    """PREFIX, or else PREFIX_b<block>."""
    from vllm_pensieve.trace.errors import TraceError
    from vllm_pensieve.trace.readers import find_trace, read_trace

    try:
        path = find_trace(prefix)
    except TraceError:
        path = find_trace(prefix.with_name(f"{prefix.name}_b{block}"))
    return read_trace(path, strict=strict, block_tokens=block)


def _of_block(traces: list[Trace], block: int | None, folder: Path) -> list[Trace]:
    chosen = [trace for trace in traces if block in (None, trace.block_tokens)]
    if not chosen:
        there = ", ".join(str(trace.block_tokens) for trace in traces)
        raise UsageError(f"{folder}: no trace has blocks of {block} tokens; there are: {there}")
    sizes = {trace.block_tokens for trace in chosen}
    if len(sizes) > 1:
        told = ", ".join(sorted(re.sub("None", "unknown", str(size)) for size in sizes))
        raise UsageError(
            f"{folder}: traces of different block sizes ({told}); choose one with --block"
        )
    return chosen


def _folder(out: Path | None, default: Path) -> Path:
    folder = out or default
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made: {error.strerror}") from error
    return folder


def _write_summary(all_stats: list[PrefixStats], out: Path | None) -> None:
    from vllm_pensieve.analysis.summaries import summarize

    if out:
        summaries = {stats.label: summarize(stats) for stats in all_stats}
        _write_json(summaries if len(summaries) > 1 else next(iter(summaries.values())), out)


def _write_json(content: dict[str, Any], out: Path) -> None:
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: written")


def _tell(paths: list[Path]) -> None:
    for path in paths:
        print(f"{path}: drawn")
