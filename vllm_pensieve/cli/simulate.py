"""`pensieve simulate`: what other cache policies and capacities would have made of a trace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_pensieve.cli.options import check_file
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import GIB
from vllm_pensieve.policies.registry import POLICIES
from vllm_pensieve.trace.formats import about_formats

if TYPE_CHECKING:
    from vllm_pensieve.analysis.replay import Parameters
    from vllm_pensieve.analysis.simulate import Simulation
    from vllm_pensieve.trace.trace import Trace


BlockTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Tokens of a block, where the trace does not say; or a multiple, to merge its blocks to.",
    ),
]
Model = Annotated[
    Path | None,
    typer.Option(
        metavar="CONFIG.json", help="Model whose KV sizes turn blocks into GiB: a config.json."
    ),
]
BytesPerToken = Annotated[
    int | None, typer.Option(min=1, help="KV bytes of a token, instead of --model.")
]


def simulate(
    trace: Annotated[
        Path,
        typer.Argument(
            help="File, plain or .gz; folder of sessions; or the PREFIX of PREFIX_requests.jsonl."
        ),
    ],
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help=f"{about_formats()}.",
        ),
    ] = "auto",
    capacity: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated blocks, percentages of the trace's unique blocks, or with --model or "
            "--bytes-per-token sizes such as 10GiB; 1%,5%,10% if not given."
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(help=f"Comma-separated: {', '.join(POLICIES)}."),
    ] = "lru,fifo,retention,min",
    cost_slope: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="A block at position i costs 1 + slope x i to compute again; if not given, 0.018 for blocks of 512 "
            "tokens and in proportion for others.",
        ),
    ] = None,
    cost_profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Profile of `pensieve profile` that prices blocks instead."
        ),
    ] = None,
    cost_bucket_ratio: Annotated[
        float,
        typer.Option(
            min=1, help="retention: blocks whose costs differ by less count as equally expensive."
        ),
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
    model: Model = None,
    bytes_per_token: BytesPerToken = None,
    block_tokens: BlockTokens = None,
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
    from vllm_pensieve.analysis.simulate import Simulation, parse_policies, to_json
    from vllm_pensieve.analysis.simulate import simulate as run
    from vllm_pensieve.cli.simulate_view import print_results, print_trace
    from vllm_pensieve.trace.readers import read_trace

    check_file("--json", json_out)
    check_file("--curve", curve)
    policies = parse_policies(policy)
    loaded = read_trace(trace, format_name, strict, block_tokens)
    parameters = _parameters(loaded, cost_slope, cost_profile)
    block_bytes = bytes_per_block(loaded, model, bytes_per_token)
    unique = loaded.unique_blocks
    capacities = (
        parse_capacities(capacity, unique, block_bytes) if capacity else default_capacities(unique)
    )
    simulation = Simulation(
        policies=policies,
        capacities=tuple(capacities),
        parameters=replace(
            parameters,
            cost_bucket_ratio=cost_bucket_ratio,
            cached_workloads=tuple(name.strip() for name in cache_workloads.split(","))
            if cache_workloads
            else (),
        ),
        flat=flat,
        jobs=jobs,
    )
    print_trace(loaded)
    results = run(loaded, simulation)
    print_results(results, loaded, block_bytes)
    if json_out:
        json_out.write_text(json.dumps(to_json(loaded, results), indent=1) + "\n", encoding="utf-8")
        print(f"{json_out}: written")
    if curve:
        more = sorted({*capacities, *curve_capacities(unique)})
        _draw_curve(loaded, simulation, tuple(more), block_bytes, curve)


def _parameters(trace: Trace, slope: float | None, profile: Path | None) -> Parameters:
    """What blocks of this trace cost; says so of a profile."""
    from vllm_pensieve.analysis.replay import Parameters
    from vllm_pensieve.analysis.simulate import default_cost_slope
    from vllm_pensieve.retention.profile import ProfileError, read_profile

    if profile is None:
        return Parameters.by_slope(default_cost_slope(trace) if slope is None else slope)
    if slope is not None:
        raise UsageError("--cost-slope and --cost-profile are alternatives; give one of them")
    if trace.block_tokens is None:
        raise UsageError(
            f"{trace.name} does not say how many tokens a block has, so a profile cannot price them; "
            "give --block-tokens or --cost-slope"
        )
    try:
        parameters = Parameters(read_profile(profile).cost_model(), trace.block_tokens)
    except ProfileError as error:
        raise UsageError(f"--cost-profile: {error}") from error
    deepest = max(1, trace.longest_request_blocks)
    dearest = parameters.costs(deepest)[-1]
    print(f"{profile}: block {deepest} of a prompt costs {dearest:.4f} times the first")
    return parameters


def bytes_per_block(trace: Trace, model: Path | None, bytes_per_token: int | None) -> float | None:
    """KV memory of a block of this trace; None if neither a model nor the bytes of a token are given.

    Raises:
        UsageError: both are, the model's file does not say, or the trace does not say how many tokens a block has.
    """
    from vllm_pensieve.kv_shape import kv_shape

    if model is None and bytes_per_token is None:
        return None
    if model is not None and bytes_per_token is not None:
        raise UsageError("--model and --bytes-per-token are alternatives; give one of them")
    if trace.block_tokens is None:
        raise UsageError(
            f"{trace.name} does not say how many tokens a block has, so blocks cannot be given in GiB; "
            "give --block-tokens"
        )
    if bytes_per_token is None:
        try:
            bytes_per_token = kv_shape(str(model)).bytes_per_token
        except UsageError as error:
            raise UsageError(f"{error}; or give --bytes-per-token instead") from error
    return float(bytes_per_token * trace.block_tokens)


def _draw_curve(
    trace: Trace,
    simulation: Simulation,
    capacities: tuple[int, ...],
    block_bytes: float | None,
    out: Path,
) -> None:
    from vllm_pensieve.analysis.figures import draw_capacity_curve
    from vllm_pensieve.analysis.simulate import simulate as run
    from vllm_pensieve.analysis.simulate import total_cost

    results = run(trace, replace(simulation, capacities=capacities))
    everything = total_cost(trace, simulation.parameters)
    gib_per_block = None if block_bytes is None else block_bytes / GIB
    draw_capacity_curve(results, trace, everything, gib_per_block, out)
    print(f"{out}: drawn")
