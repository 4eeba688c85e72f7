"""`pensieve bench users`: users who talk at the same time, with short and with long pauses."""

from __future__ import annotations

import signal

from vllm_pensieve.bench.users import UsersOptions, plan_users
from vllm_pensieve.cli.compare import carry_out
from vllm_pensieve.cli.options import takes


@takes(UsersOptions)
def users(options: UsersOptions) -> int:
    """Serve users who talk at the same time, in each way of serving, and compare by class of user.

    A third of them is HOT, a third WARM, a third COLD, what is left over goes to
    the hotter classes; one user alone is WARM.
    """
    return run(options)


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
