"""`pensieve trace policies`, `analyze-all` and `mix`: what caches would hit, by policy, capacity and size of blocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vllm_pensieve.cli.options import check_file
from vllm_pensieve.cli.trace_files import (
    Folder,
    Json,
    Out,
    Strict,
    find_sized,
    folder_for,
    of_one_block_size,
    tell,
    trace_files,
    write_json,
)
from vllm_pensieve.errors import UsageError

if TYPE_CHECKING:
    from vllm_pensieve.analysis.simulate import Result
    from vllm_pensieve.analysis.summaries import PrefixStats

ORDERS = ("turns", "time")


def policies(
    prefix: Annotated[
        Path, typer.Argument(help="PREFIX of PREFIX_requests.jsonl, or a trace file of any format.")
    ],
    block: Annotated[
        int,
        typer.Argument(
            min=1, help="Tokens of a block; recorded blocks are merged into larger ones."
        ),
    ],
    policy: Annotated[str, typer.Argument(help="Name of a policy, or several with commas.")],
    out: Out = None,
    capacity: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated blocks or percentages of unique blocks; 64, 128, 256 ... if not given."
        ),
    ] = None,
    strict: Strict = False,
) -> None:
    """Hits and misses of cache policies over a range of capacities, as a table and one figure a policy."""
    from vllm_pensieve.analysis.cache_figures import draw_cache_hits, policy_title
    from vllm_pensieve.analysis.capacity import doubling_capacities, parse_capacities
    from vllm_pensieve.analysis.replay import Parameters
    from vllm_pensieve.analysis.simulate import (
        Simulation,
        default_cost_slope,
        parse_policies,
        simulate,
    )
    from vllm_pensieve.analysis.summaries import workload_label
    from vllm_pensieve.cli.simulate_view import print_trace
    from vllm_pensieve.cli.trace_view import print_hits
    from vllm_pensieve.trace.readers import read_trace

    names = parse_policies(policy.lower())
    trace = read_trace(find_sized(prefix, block), strict=strict, block_tokens=block)
    unique = trace.unique_blocks
    capacities = parse_capacities(capacity, unique) if capacity else doubling_capacities(unique)
    parameters = Parameters.by_slope(default_cost_slope(trace))
    results = simulate(trace, Simulation(names, tuple(capacities), parameters))
    print_trace(trace)
    print_hits(results)
    folder = folder_for(out, prefix.parent)
    label = workload_label(Path(trace.name))
    paths = []
    for name in names:
        paths.append(folder / f"cache_hits_{label}_b{block}_{policy_title(name)}.png")
        draw_cache_hits([(trace, [one for one in results if one.policy == name])], label, paths[-1])
    tell(paths)


def analyze_all(
    folder: Folder,
    policy: Annotated[str, typer.Option(help="Comma-separated policies.")] = "lru,fifo",
    out: Out = None,
    json_out: Json = None,
    strict: Strict = False,
) -> None:
    """Summaries, distributions and hit rates of every trace in a folder, workloads and sizes of blocks side by side."""
    from vllm_pensieve.analysis.cache_figures import draw_cache_hits, policy_title
    from vllm_pensieve.analysis.simulate import parse_policies
    from vllm_pensieve.analysis.summaries import read_prefix_stats, summarize
    from vllm_pensieve.analysis.summary_figures import draw_reuse_cdfs
    from vllm_pensieve.cli.trace_view import print_all_hits, print_all_reuse

    check_file("--json", json_out)
    names = parse_policies(policy.lower())
    all_stats = [read_prefix_stats(path, strict=strict) for path in trace_files(folder)]
    all_stats.sort(key=lambda stats: (stats.workload_label, stats.trace.block_tokens or 0))
    target = folder_for(out, folder)
    hits = _simulate_all(all_stats, names)
    print_all_reuse(all_stats)
    print_all_hits(all_stats, hits, names)
    if json_out:
        numbers = {one.label: summarize(one) | _hits_json(hits[one.label]) for one in all_stats}
        write_json(numbers, json_out)
    labels = list(dict.fromkeys(stats.workload_label for stats in all_stats))
    paths = draw_reuse_cdfs(all_stats, target, "all") if len(labels) > 1 else []
    for label in labels:
        own = [stats for stats in all_stats if stats.workload_label == label]
        paths += draw_reuse_cdfs(own, target, label)
        for name in names:
            paths.append(target / f"cache_hits_{label}_{policy_title(name)}.png")
            series = [(one.trace, [r for r in hits[one.label] if r.policy == name]) for one in own]
            draw_cache_hits(series, label, paths[-1])
    tell(paths)


def _simulate_all(all_stats: list[PrefixStats], names: tuple[str, ...]) -> dict[str, list[Result]]:
    """Results by trace; traces of one workload at the same capacities, so that they can be compared."""
    from vllm_pensieve.analysis.capacity import doubling_capacities
    from vllm_pensieve.analysis.replay import Parameters
    from vllm_pensieve.analysis.simulate import Simulation, default_cost_slope, simulate

    largest: dict[str, int] = {}
    for stats in all_stats:
        label = stats.workload_label
        largest[label] = max(largest.get(label, 0), stats.trace.unique_blocks)
    return {
        stats.label: simulate(
            stats.trace,
            Simulation(
                names,
                tuple(doubling_capacities(largest[stats.workload_label])),
                Parameters.by_slope(default_cost_slope(stats.trace)),
            ),
        )
        for stats in all_stats
    }


def _hits_json(results: list[Result]) -> dict[str, Any]:
    columns = ("policy", "capacity_blocks", "accesses", "hits_any", "hits_prefix")
    return {"cache_hits": [{key: getattr(one, key) for key in columns} for one in results]}


def mix(
    folder: Folder,
    block: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a block; the smallest that was recorded if not given."),
    ] = None,
    capacity: Annotated[
        str, typer.Option(help="Comma-separated blocks or percentages of unique blocks.")
    ] = "256",
    order: Annotated[
        str,
        typer.Option(
            help="`turns`: one request of each workload after the other; `time`: as they arrived."
        ),
    ] = "turns",
    cache_workloads: Annotated[
        str | None,
        typer.Option(help="What workload-aware LRU keeps; by default what repeats most."),
    ] = None,
    out: Out = None,
    json_out: Json = None,
    strict: Strict = False,
) -> None:
    """All workloads of a folder share one cache: LRU, FIFO and workload-aware LRU, by workload and overall."""
    from vllm_pensieve.analysis.cache_figures import draw_mixed
    from vllm_pensieve.analysis.capacity import parse_capacities
    from vllm_pensieve.analysis.mixed import mixed_to_json, simulate_mixed, worth_keeping
    from vllm_pensieve.analysis.replay import Parameters
    from vllm_pensieve.analysis.simulate import Simulation, default_cost_slope
    from vllm_pensieve.cli.simulate_view import print_trace
    from vllm_pensieve.cli.trace_view import print_mixed
    from vllm_pensieve.trace.combine import interleave
    from vllm_pensieve.trace.readers import read_trace

    check_file("--json", json_out)
    if order not in ORDERS:
        raise UsageError(f"--order {order!r} is unknown; choose one of: {', '.join(ORDERS)}")
    traces = [read_trace(path, strict=strict) for path in trace_files(folder)]
    trace = interleave(of_one_block_size(traces, block, folder), in_turns=order == "turns")
    target = folder_for(out, folder)
    kept = tuple(cache_workloads.split(",")) if cache_workloads else worth_keeping(trace)
    capacities = tuple(parse_capacities(capacity, trace.unique_blocks))
    parameters = Parameters.by_slope(default_cost_slope(trace), cached_workloads=kept)
    results = simulate_mixed(trace, Simulation((), capacities, parameters))
    print_trace(trace)
    print_mixed(results, trace, kept, order)
    if json_out:
        write_json(mixed_to_json(trace, results, kept), json_out)
    path = target / "cache_hits_mixed.png"
    draw_mixed(results, trace, path)
    tell([path])
