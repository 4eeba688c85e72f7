"""The command: attention over scattered blocks, compared with dense attention."""

from __future__ import annotations

import logging

from benchmarks.attention.options import KernelOptions
from vllm_pensieve.bench.checks import check_choice
from vllm_pensieve.cli.options import check_file, takes
from vllm_pensieve.kv_shape import BYTES_BY_DTYPE
from vllm_pensieve.tables import show

WRONG_STATUS = 1


@takes(KernelOptions)
def kernels(options: KernelOptions) -> int:
    """Measure attention of several queries a request over KV blocks that lie anywhere in memory.

    The reference, vLLM's own kernel, FlexAttention and xformers where they are available, copying the blocks out first,
    and one query at a time, compared with dense attention over contiguous KV, the ideal.
    """
    check_file("--json", options.json)
    check_choice("--dtype", options.dtype, BYTES_BY_DTYPE)
    logging.getLogger("vllm").setLevel(logging.ERROR)  # it warns of what is not used here
    from rich.console import Console

    from benchmarks.attention.measure import measure_kernels, plan
    from benchmarks.attention.view import tables, wrong_ways
    from vllm_pensieve.bench.summary import write_summary

    console = Console()
    console.print(plan(options)[2], highlight=False, soft_wrap=True)
    with console.status("") as status:
        result = measure_kernels(options, lambda what: status.update(what))
    for part in tables(result):
        if isinstance(part, str):
            console.print(part, highlight=False, markup=False)
        else:
            show(part)
    if options.json is not None:
        write_summary(options.json, result)
        console.print(f"all numbers: {options.json}", highlight=False, soft_wrap=True)
    wrong = wrong_ways(result)
    for line in wrong:
        console.print(line, style="red", highlight=False, soft_wrap=True)
    if options.verify and not wrong:
        results = sum(len(case["ways"]) for case in result["results"])
        console.print(
            f"Attention correctness check PASSED: {results} results equal dense attention",
            highlight=False,
            soft_wrap=True,
        )
    return WRONG_STATUS if wrong else 0
