"""`pensieve profile`: measures what recomputation and copies cost on this device, for the server to decide by."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from vllm_pensieve.bench.memory_options import HOST_GIB
from vllm_pensieve.cli.options import check_file, takes
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import is_cpu_build, require_vllm
from vllm_pensieve.quiet import quiet_start
from vllm_pensieve.tables import show

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_pensieve.bench.profile import Plan
    from vllm_pensieve.bench.timed_engine import EngineOptions
    from vllm_pensieve.retention.profile import Profile

INACCURATE_STATUS = 1
CPU_CHUNKS, GPU_CHUNKS = (128, 256, 512), (512, 1024, 2048)


def _text(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """The options of `pensieve profile`."""

    model: Annotated[
        str, Option(help="Model name or folder, or `demo` for the built-in random model.")
    ] = "demo"
    dtype: Annotated[
        str, Option(help="The same values as vLLM takes: auto, bfloat16, float32, ...")
    ] = "auto"
    tensor_parallel_size: Annotated[int, Option(min=1, help="Workers that share every layer.")] = 1
    host_cache_gib: Annotated[
        float,
        Option(
            min=0,
            metavar="GIB",
            help="Have a host tier of this size while measuring, as the server will.",
        ),
        *HOST_GIB,
    ] = 0
    max_context: Annotated[
        int | None,
        Option(min=128, help="Longest context in tokens; the model's, at most 16,384."),
    ] = None
    chunks: Annotated[
        tuple[int, ...] | None,
        Option(
            help=f"Comma-separated: tokens of the steps that are timed (default: {_text(CPU_CHUNKS)} on a CPU, "
            f"{_text(GPU_CHUNKS)} on a GPU, where short steps all take the same time)."
        ),
    ] = None
    repeats: Annotated[int, Option(min=1, help="Time everything this many times, in turn.")] = 7
    out: Annotated[
        Path | None,
        Option(metavar="FILE", help="File of the profile, instead of one in the cache folder."),
    ] = None
    figure: Annotated[
        Path | None,
        Option(metavar="PNG", help="Figure to draw; by default it is next to the profile."),
    ] = None
    check: Annotated[
        bool,
        Option(
            "--check",
            help="Measure no profile: compare the one that a server takes, or that of --out, with recomputation in "
            "serving.",
        ),
    ] = False
    vllm_options: Annotated[
        tuple[str, ...],
        Argument(metavar="[-- VLLM_OPTIONS]", help="Options for the engine.", show_default=False),
    ] = ()


@takes(ProfileOptions)
def profile(asked: ProfileOptions) -> int:
    """Measure what it costs to compute tokens again, by context length, and how fast blocks are copied.

    A server with the same model, number format and device takes the newest such
    profile by itself (setting `cost_profile`). --check exits with status 1 if a
    prediction is off by more than 15 %.
    """
    from vllm_pensieve.bench.profile import Plan, contexts_up_to
    from vllm_pensieve.bench.timed_engine import (
        EngineOptions,
        check_vllm_options,
        prepare_timing_environment,
    )

    require_vllm()
    check_file("--out", asked.out)
    check_file("--figure", asked.figure)
    plan = Plan(asked.chunks or (CPU_CHUNKS if is_cpu_build() else GPU_CHUNKS), asked.repeats)
    if asked.max_context is not None and not asked.check:
        contexts_up_to(asked.max_context, plan.chunks[-1], 1)  # refuses what no engine could do
    check_vllm_options(asked.vllm_options)
    prepare_timing_environment(os.environ)
    options = EngineOptions(
        model=asked.model,
        dtype=asked.dtype,
        tensor_parallel_size=asked.tensor_parallel_size,
        max_context=asked.max_context,
        vllm_options=asked.vllm_options,
    )
    if asked.check:
        return _check(options, asked.out, asked.host_cache_gib, asked.repeats)
    _measure(options, plan, asked.host_cache_gib, asked.out, asked.figure)
    return 0


def _measure(
    options: EngineOptions,
    plan: Plan,
    host_cache: float,
    out: Path | None,
    figure: Path | None,
) -> None:
    from rich.console import Console

    from vllm_pensieve.bench.profile import complete_profile, measure_costs, shape_of
    from vllm_pensieve.bench.timed_engine import start_timed

    console = Console()
    with console.status("starting vLLM") as status:
        settings = {"cost_profile": "none", "host_cache_gib": host_cache}
        with quiet_start():
            engine = start_timed(options, settings)
        try:
            shape = shape_of(engine)
            costs, error = measure_costs(engine, plan, status.update)
        finally:
            engine.close()
        status.update("copying blocks")
        result = complete_profile(shape, plan, costs, error)
    _save(console, result, out, figure)


def _save(console: Console, result: Profile, out: Path | None, figure: Path | None) -> None:
    from vllm_pensieve.bench.profile_figure import draw_profile
    from vllm_pensieve.cli.profile_view import curve_lines, curve_table, curve_title
    from vllm_pensieve.config import profile_folder
    from vllm_pensieve.retention.profile import default_path, write_profile

    console.print(curve_title(result), highlight=False, soft_wrap=True)
    show(curve_table(result))
    for line in curve_lines(result):
        console.print(line, highlight=False, soft_wrap=True)
    try:
        path = out or default_path(result, profile_folder())
        write_profile(result, path)
        picture = figure or path.with_suffix(".png")
        draw_profile(result, picture)
    except OSError as error:
        raise UsageError(f"the profile cannot be saved: {error}; name a file with --out") from error
    console.print(f"saved: {path}\nfigure: {picture}", highlight=False, soft_wrap=True)


def _check(options: EngineOptions, file: Path | None, host_cache: float, repeats: int) -> int:
    from rich.console import Console

    from vllm_pensieve.bench.profile_check import ACCEPTED_ERROR, check_costs
    from vllm_pensieve.bench.timed_engine import start_timed
    from vllm_pensieve.cli.profile_view import check_table
    from vllm_pensieve.config import profile_folder

    console = Console()
    settings: dict[str, Any] = {
        "cost_profile": str(file or ""),
        "host_cache_gib": host_cache,
    }
    with console.status("starting vLLM") as status:
        with quiet_start():
            engine = start_timed(options, settings)
        try:
            costs = engine.scheduler.costs
            if costs is None or costs.profile is None:
                raise UsageError(
                    f"no profile in {profile_folder()} fits this model and device; measure one with `pensieve profile`"
                )
            comparisons = check_costs(
                engine, costs.cost_model, repeats, tell=lambda text: status.update(text)
            )
        finally:
            engine.close()
    show(check_table(comparisons))
    worst = max(abs(row.error) for row in comparisons)
    good = worst <= ACCEPTED_ERROR
    console.print(
        f"largest error {worst:.1%}: {'within' if good else 'MORE THAN'} {ACCEPTED_ERROR:.0%}",
        highlight=False,
    )
    return 0 if good else INACCURATE_STATUS
