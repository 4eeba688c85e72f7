"""`pensieve bench users`: users who talk at the same time, with short and with long pauses."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from vllm_pensieve.bench.users import UsersOptions, plan_users
from vllm_pensieve.cli.benchmark_options import (
    CpuCache,
    Device,
    GpuCache,
    Model,
    Modes,
    Out,
    Repeat,
    Seed,
    ServerOptions,
    Sheet,
)
from vllm_pensieve.cli.compare import carry_out


def users(
    model: Model = UsersOptions.model,
    modes: Modes = UsersOptions.modes,
    preset: Annotated[
        str,
        typer.Option(
            help="Values of the options that are not given. fast: few users, few turns, done in minutes. "
            "stress: many users, 10 turns, long histories, memory for a part of them. "
            "guide: one user, 10 turns, as the Pensieve guide has it."
        ),
    ] = UsersOptions.preset,
    users: Annotated[
        int | None,
        typer.Option(
            "--users",
            "--num-concurrent-users",
            help="Users, all at the same time; of several, HOT ones have three conversations, WARM ones two.",
        ),
    ] = None,
    turns: Annotated[int | None, typer.Option(help="Turns of each conversation.")] = None,
    request_interval: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Mean pause of a WARM user between a reply and the next request, and before the first; "
            "0.3 times this for HOT users, 2.5 times for COLD ones. Each pause is drawn from an exponential "
            "distribution, the same in all modes.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Length of every reply; without it MAX_NEW_TOKENS of the environment, else the preset's."
        ),
    ] = None,
    history_tokens: Annotated[
        int | None, typer.Option(help="Length of the text pasted into each first turn.")
    ] = None,
    gpu_cache: GpuCache = None,
    cpu_cache: CpuCache = None,
    device: Device = UsersOptions.device,
    repeat: Repeat = UsersOptions.repeat,
    seed: Seed = UsersOptions.seed,
    out: Out = UsersOptions.out,
    sheet: Sheet = None,
    server_options: ServerOptions = None,
) -> None:
    """Serve users who talk at the same time, in each way of serving, and compare by class of user.

    A third of them is HOT, a third WARM, a third COLD, what is left over goes to
    the hotter classes; one user alone is WARM.
    """
    options = UsersOptions(
        model=model,
        modes=modes,
        preset=preset,
        users=users,
        turns=turns,
        request_interval_s=request_interval,
        max_new_tokens=max_new_tokens,
        history_tokens=history_tokens,
        gpu_cache_gb=gpu_cache,
        cpu_cache_gb=cpu_cache,
        device=device,
        repeat=repeat,
        seed=seed,
        out=out,
        sheet=sheet,
        server_options=tuple(server_options or ()),
    )
    raise typer.Exit(run(options))


def run(options: UsersOptions) -> int:
    """Carry the benchmark out; return the exit status (1: something failed, 130: interrupted).

    Raises UsageError before anything is started for everything that cannot be done as asked.
    """
    from rich.console import Console

    from vllm_pensieve.cli.benchmark_view import details, users_line

    plan = plan_users(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    Console().print(users_line(plan.workload), highlight=False, soft_wrap=True)
    return carry_out(plan, details)
