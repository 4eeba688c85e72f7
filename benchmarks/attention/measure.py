"""Runs every way on every case: whether it is right, and how long it takes compared with the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from benchmarks.attention import (
    copy_out,
    dense,
    flex,
    multi_round,
    paged,
    vllm_paged,
    xformers_paged,
)
from benchmarks.attention.cases import Case, make_cases
from benchmarks.attention.contract import Prepared, UnavailableError, Way
from benchmarks.attention.options import KernelOptions
from benchmarks.attention.problem import Problem, ScatteredKv, make_problem
from vllm_pensieve.bench.timing import alternating_medians, seconds_each
from vllm_pensieve.errors import UsageError
from vllm_pensieve.machine import GIB, describe_machine, describe_versions
from vllm_pensieve.swap.host_memory import available_bytes

SCHEMA = 1
WAYS: tuple[Way, ...] = (
    dense.WAY,
    vllm_paged.WAY,
    flex.WAY,
    xformers_paged.WAY,
    paged.WAY,
    copy_out.WAY,
    multi_round.WAY,
)
TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
"""How far a query's result may be off, as a share of the largest number in it: rounding, not another key."""

Progress = Callable[[str], None]


def plan(options: KernelOptions) -> tuple[list[Case], torch.device, str]:
    """The cases, the device, and a sentence about the memory they take at once.

    Raises UsageError if sizes do not go together, or the device or the memory is not there.
    """
    cases, device = make_cases(options), _device(options.device)
    parts = max((case.memory_bytes(device.type) for case in cases), key=lambda p: sum(p.values()))
    needed, available = sum(parts.values()), _available(device)
    said = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    if needed > available:
        raise UsageError(
            f"{needed / GIB:.2f} GiB are needed ({said}) and {available / GIB:.2f} GiB are available on {device}; "
            "lower --batch, --key-len, --query-len, --heads or --kv-heads"
        )
    memory = (
        f"memory: {needed / GIB:.2f} of {available / GIB:.2f} GiB available on {device}: {said}"
    )
    return cases, device, memory


def measure_kernels(
    options: KernelOptions, progress: Progress = lambda text: None
) -> dict[str, Any]:
    """Measure all that is asked for, and return it as it is written to the JSON file.

    Raises UsageError if it cannot be measured here.
    """
    cases, device, _ = plan(options)
    results = [
        result for case in cases for result in _measure_case(case, options, device, progress)
    ]
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "options": {name: value for name, value in asdict(options).items() if name != "json"},
        "results": results,
    }


def _measure_case(
    case: Case, options: KernelOptions, device: torch.device, progress: Progress
) -> Iterator[dict[str, Any]]:
    """All KV there; and, if there are any dropped runs, these computed again."""
    kv = ScatteredKv(case, device, options.seed)
    for dropped in ((), case.dropped) if case.dropped else ((),):
        problem = make_problem(kv, dropped, options.seed)
        ways, left_out = _prepare(problem, progress)
        errors = _verify(problem, ways, progress) if options.verify else {}
        progress(f"timing {_describe(problem)}")
        seconds = alternating_medians(
            {name: partial(seconds_each, [way.run], device) for name, way in ways.items()},
            options.iters,
        )
        yield {
            "batch": case.batch,
            "query_tokens": case.new_tokens,
            "key_tokens": case.context_tokens,
            "pieces": case.pieces,
            "block_tokens": case.block_tokens,
            "dropped_runs": dropped,
            "flops": problem.flops(),
            "ways": [
                {
                    "name": name,
                    "note": ways[name].note,
                    "ms": 1000 * taken,
                    "ratio_to_dense": taken / seconds[dense.NAME],
                    "gflop_s": problem.flops() / taken / 1e9,
                    **errors.get(name, {}),
                }
                for name, taken in seconds.items()
            ],
            "left_out": left_out,
        }


def _prepare(problem: Problem, progress: Progress) -> tuple[dict[str, Prepared], dict[str, str]]:
    """The available ways, and why the others are not."""
    ways: dict[str, Prepared] = {}
    left_out: dict[str, str] = {}
    for way in WAYS:
        progress(f"preparing {way.name} for {_describe(problem)}")
        try:
            ways[way.name] = way.prepare(problem)
        except UnavailableError as error:
            left_out[way.name] = str(error)
    return ways, left_out


def _verify(
    problem: Problem, ways: dict[str, Prepared], progress: Progress
) -> dict[str, dict[str, Any]]:
    """How far each way is off from dense attention in float32.

    error: the largest absolute one; share_of_allowed: that of the query which is worst for its tolerance.
    """
    progress(f"verifying {_describe(problem)}")
    outputs = {name: way.run() for name, way in ways.items()}
    errors, shares = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    for request in range(problem.kv.case.batch):
        right = problem.dense_result(request)
        allowed = TOLERANCES[problem.kv.case.dtype] * right.abs().amax(dim=(1, 2))
        for name, output in outputs.items():
            off = (output[request].float() - right).abs().amax(dim=(1, 2)).nan_to_num(torch.inf)
            errors[name] = max(errors[name], off.max().item())
            shares[name] = max(shares[name], (off / allowed).max().item())
    return {
        name: {
            "error": errors[name],
            "tolerance": TOLERANCES[problem.kv.case.dtype],
            "share_of_allowed": shares[name],
            "right": shares[name] <= 1,
        }
        for name in ways
    }


def _describe(problem: Problem) -> str:
    case = problem.kv.case
    again = f", {len(problem.stretches) - 1} dropped runs" if len(problem.stretches) > 1 else ""
    return f"{case.batch} x {case.new_tokens} queries after {case.context_tokens} tokens{again}"


def _device(name: str) -> torch.device:
    """Raises UsageError if there is no such device."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"--device {name!r} is unknown; choose one of: auto, cpu, cuda, cuda:N")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch finds no CUDA device here; use --device cpu")
    if (device.index or 0) >= max(1, torch.cuda.device_count()):
        raise UsageError(f"--device {name}: torch finds {torch.cuda.device_count()} CUDA devices")
    return device


def _available(device: torch.device) -> int:
    """Bytes that may still be allocated there."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return available_bytes()
