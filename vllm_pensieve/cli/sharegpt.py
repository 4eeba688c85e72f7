"""`pensieve bench sharegpt`: conversations people had, in each way of serving."""

from __future__ import annotations

import signal

from vllm_pensieve.bench.sharegpt import ShareGptOptions, plan_sharegpt
from vllm_pensieve.cli.compare import carry_out
from vllm_pensieve.cli.options import takes


@takes(ShareGptOptions)
def sharegpt(options: ShareGptOptions) -> int:
    """Replay conversations that people had with a chat model, in each way of serving.

    The users' messages are the recorded ones; of the replies only the lengths
    are, since the served model answers itself.
    """
    return run(options)


def run(options: ShareGptOptions) -> int:
    """Carry the benchmark out; return the exit status (1: something failed, 130: interrupted).

    Raises UsageError before anything is started for everything that cannot be done as asked.
    """
    from rich.console import Console

    from vllm_pensieve.cli.benchmark_view import dataset_line, details

    plan = plan_sharegpt(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    Console().print(dataset_line(plan.workload), highlight=False, soft_wrap=True)
    return carry_out(plan, details)
