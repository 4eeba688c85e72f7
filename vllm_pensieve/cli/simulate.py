"""`pensieve simulate`: what other cache policies and capacities would have made of a trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_pensieve.workloads.errors import UsageError

if TYPE_CHECKING:
    from vllm_pensieve.analysis.simulate import Simulation
    from vllm_pensieve.trace.trace import Trace


def simulate(
    trace: Annotated[
        Path,
        typer.Argument(help="File, plain or .gz; or the PREFIX of PREFIX_requests.jsonl."),
    ],
    format_name: Annotated[
        str, typer.Option("--format", help="auto, pensieve, mooncake, bailian, kvct.")
    ] = "auto",
    capacity: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated blocks, or percentages of the trace's unique blocks; 1%,5%,10% if not given."
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="Comma-separated: lru, lru-head-first, fifo, fifo-as-served, lfu, arc, s3-fifo, sieve, w-tinylfu, "
            "gdsf, retention, workload-aware-lru, min, belady."
        ),
    ] = "lru,fifo,retention,min",
    cost_slope: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="A block at position i costs 1 + slope x i to compute again; 0.018 if not given.",
        ),
    ] = None,
    cost_profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Profile of `pensieve profile` that gives the slope instead."
        ),
    ] = None,
    cost_bucket_ratio: Annotated[
        float,
        typer.Option(min=1, help="retention: blocks whose costs differ by less are equally dear."),
    ] = 1.05,
    cache_workloads: Annotated[
        str | None,
        typer.Option(help="workload-aware-lru: comma-separated workloads whose blocks are kept."),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the numbers as JSON.")
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Also simulate a range of capacities, and draw it."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG.json", help="Model whose KV sizes give the curve a GiB axis."),
    ] = None,
    bytes_per_token: Annotated[
        int | None, typer.Option(min=1, help="KV bytes of a token, instead of --model.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="Stop at the first bad line.")] = False,
    flat: Annotated[
        bool, typer.Option(help="Take each block access as a request of its own.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Simulations at a time.")] = 1,
) -> None:
    """Replay a trace through cache policies at several capacities, offline."""
    from vllm_pensieve.analysis.capacity import (
        curve_capacities,
        default_capacities,
        parse_capacities,
    )
    from vllm_pensieve.analysis.policies.policy import Parameters
    from vllm_pensieve.analysis.simulate import Simulation, parse_policies, to_json
    from vllm_pensieve.analysis.simulate import simulate as run
    from vllm_pensieve.cli.simulate_view import print_results, print_trace
    from vllm_pensieve.trace.readers import read_trace

    for out in (json_out, curve):
        check_writable(out)
    policies = parse_policies(policy)
    loaded = read_trace(trace, format_name, strict)
    slope = _slope(loaded, cost_slope, cost_profile)
    gib_per_block = _gib_per_block(loaded, model, bytes_per_token)
    unique = loaded.unique_blocks
    capacities = parse_capacities(capacity, unique) if capacity else default_capacities(unique)
    simulation = Simulation(
        policies=policies,
        capacities=tuple(capacities),
        parameters=Parameters(
            slope,
            cost_bucket_ratio,
            tuple(name.strip() for name in cache_workloads.split(",")) if cache_workloads else (),
        ),
        flat=flat,
        jobs=jobs,
    )
    print_trace(loaded)
    results = run(loaded, simulation)
    print_results(results, loaded)
    if json_out:
        json_out.write_text(json.dumps(to_json(loaded, results), indent=1) + "\n", encoding="utf-8")
        print(f"{json_out}: written")
    if curve:
        more = sorted({*capacities, *curve_capacities(unique)})
        _draw_curve(loaded, simulation, tuple(more), gib_per_block, curve)


def _slope(trace: Trace, given: float | None, profile: Path | None) -> float:
    from vllm_pensieve.analysis.policies.policy import Parameters
    from vllm_pensieve.retention.cost_model import cost_slope
    from vllm_pensieve.retention.profile import ProfileError, read_profile

    if profile is None:
        return Parameters.cost_slope if given is None else given
    if given is not None:
        raise UsageError("--cost-slope and --cost-profile say the same thing; give one of them")
    if trace.block_tokens is None:
        raise UsageError(
            f"{trace.name} does not tell how many tokens a block has, so a profile cannot price them; "
            "name it PREFIX_b<tokens>_requests.jsonl, or give --cost-slope"
        )
    try:
        costs = read_profile(profile).cost_model()
    except ProfileError as error:
        raise UsageError(f"--cost-profile: {error}") from error
    slope = cost_slope(costs, trace.block_tokens, max(2, trace.longest_request_blocks))
    print(f"{profile}: a block at position i costs 1 + {slope:.4f} x i")
    return slope


def check_writable(path: Path | None) -> None:
    """UsageError if there is no folder for this file."""
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
    if path is not None and path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file in it")


def _gib_per_block(trace: Trace, model: Path | None, bytes_per_token: int | None) -> float | None:
    from vllm_pensieve.analysis.capacity import kv_bytes_per_token

    if model is None and bytes_per_token is None:
        return None
    if model is not None and bytes_per_token is not None:
        raise UsageError("--model and --bytes-per-token say the same thing; give one of them")
    if trace.block_tokens is None:
        raise UsageError(
            f"{trace.name} does not tell how many tokens a block has, so blocks cannot be given in GiB; "
            "name it PREFIX_b<tokens>_requests.jsonl"
        )
    per_token = kv_bytes_per_token(model) if model is not None else bytes_per_token
    assert per_token is not None
    return per_token * trace.block_tokens / 2**30


def _draw_curve(
    trace: Trace,
    simulation: Simulation,
    capacities: tuple[int, ...],
    gib_per_block: float | None,
    out: Path,
) -> None:
    from dataclasses import replace

    from vllm_pensieve.analysis.figures import draw_capacity_curve
    from vllm_pensieve.analysis.simulate import simulate as run
    from vllm_pensieve.analysis.simulate import total_cost

    results = run(trace, replace(simulation, capacities=capacities))
    everything = total_cost(trace, simulation.parameters.cost_slope)
    draw_capacity_curve(results, trace, everything, gib_per_block, out)
    print(f"{out}: drawn")
