#!/usr/bin/env python
"""How fast the cache simulator is next to libcachesim's LRU and an LRU of an OrderedDict, on one stream in one run.

    python scripts/simulate_speed.py [--accesses 10000000] [--trace sessions_rle.jsonl.gz] [--json OUT]

The stream is Zipf-distributed; every block has a position in a prompt, so that retention value has something to weigh.
All sides run on one core; each is run `--repeat` times in turn and its best time counts. libcachesim (optional:
`pip install libcachesim`) reads the stream from a file in its own binary format, which its compiled loop maps into
memory. With `--trace`, six policies at four capacities are simulated on two cores, reading the trace included.
Exit status 1 if the LRUs do not hit equally often.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.analysis.policies import load_policy
from vllm_pensieve.analysis.policies.policy import HITS_ANY, Parameters, Replay
from vllm_pensieve.analysis.simulate import Simulation, simulate
from vllm_pensieve.machine import describe_machine
from vllm_pensieve.trace.readers import read_trace
from vllm_pensieve.trace.trace import Stream

POSITIONS = 500
OUR_POLICIES = ("lru", "retention")
TRACE_POLICIES = ("lru", "fifo", "arc", "s3-fifo", "retention", "min")
TRACE_PERCENT = (1, 5, 10, 25)
PACKAGES = ("numba", "numpy", "libcachesim")
HASH_POWERS = (24, 16)
"""libcachesim's default size of its hash table, and one that fits into the processor's cache."""
RECORD = np.dtype([("time", "<u4"), ("block", "<u8"), ("size", "<u4"), ("next", "<i8")])
"""libCacheSim's oracleGeneral format."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accesses", type=int, default=10_000_000)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--skew", type=float, default=1.0)
    parser.add_argument("--capacity", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--trace", type=Path, help="also simulate this trace on two cores")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "versions": versions(),
        "options": {key: str(value) for key, value in vars(options).items()},
        "start_s": start_times(),
    }
    print(json.dumps(report["machine"] | report["versions"]))
    for command, seconds in report["start_s"].items():
        print(f"{command}: {seconds:.2f} s")
    if options.trace:
        report["trace"] = simulate_trace(options.trace)
        print(json.dumps(report["trace"]))
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    report["one_core"] = measure_stream(options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    lru_hits = {side["hits"] for name, side in report["one_core"].items() if name != "retention"}
    print("all LRUs hit equally often" if len(lru_hits) == 1 else "THE LRUs DIFFER")
    return 0 if len(lru_hits) == 1 else 1


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def start_times() -> dict[str, float]:
    """Seconds from nothing to the end of each command's help."""
    times = {}
    for command in ("simulate",):
        begun = time.perf_counter()
        arguments = [sys.executable, "-m", "vllm_pensieve", command, "--help"]
        subprocess.run(arguments, stdout=subprocess.DEVNULL, check=True)
        times[f"pensieve {command} --help"] = time.perf_counter() - begun
    return times


def simulate_trace(path: Path) -> dict[str, Any]:
    begun = time.perf_counter()
    trace = read_trace(path)
    read_s = time.perf_counter() - begun
    capacities = tuple(trace.unique_blocks * percent // 100 for percent in TRACE_PERCENT)
    results = simulate(trace, Simulation(TRACE_POLICIES, capacities, jobs=2))
    return {
        "accesses": trace.accesses,
        "policies": TRACE_POLICIES,
        "capacities": capacities,
        "simulations": len(results),
        "read_s": read_s,
        "seconds": time.perf_counter() - begun,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def measure_stream(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Hits and best accesses per second of each side."""
    stream = zipf_stream(options.accesses, options.blocks, options.skew)
    sides: dict[str, Callable[[], int]] = {
        name: our_side(name, stream, options.blocks, options.capacity) for name in OUR_POLICIES
    }
    sides["OrderedDict"] = lambda: ordered_dict_lru(stream.blocks, options.capacity)
    with tempfile.TemporaryDirectory() as folder:
        if "libcachesim" in versions():
            path = Path(folder) / "stream.oracleGeneral.bin"
            write_oracle_general(stream.blocks, path)
            for hash_power in HASH_POWERS:
                name = f"libcachesim (table 2^{hash_power})"
                sides[name] = partial(libcachesim_lru, path, options, hash_power)
        else:
            print("libcachesim is not installed: it is left out")
        measured = {name: {"hits": 0.0, "seconds": float("inf")} for name in sides}
        for _ in range(options.repeat):
            for name, side in sides.items():
                begun = time.perf_counter()
                hits = side()
                seconds = time.perf_counter() - begun
                best = min(seconds, measured[name]["seconds"])
                measured[name] = {"hits": hits, "seconds": best}
    for name, numbers in measured.items():
        numbers["accesses_per_s"] = options.accesses / numbers["seconds"]
        ratio = measured["lru"]["seconds"] / numbers["seconds"]
        rate, hits = numbers["accesses_per_s"] / 1e6, numbers["hits"] / options.accesses
        print(
            f"{name:24} {rate:7.2f} M accesses/s, our LRU is {1 / ratio:5.2f} times as fast, hits {hits:.2%}"
        )
    return measured


def zipf_stream(accesses: int, blocks: int, skew: float) -> Stream:
    """A flat stream; blocks are numbered at random, one access a millisecond."""
    random = np.random.default_rng(0)
    weights = np.cumsum(1 / np.arange(1, blocks + 1) ** skew)
    ranks = np.searchsorted(weights, random.random(accesses) * weights[-1])
    numbers = random.permutation(blocks).astype(np.int32)[ranks]
    positions = random.integers(0, POSITIONS, blocks).astype(np.int32)
    return Stream(
        numbers,
        np.arange(accesses + 1),
        positions[numbers],
        np.arange(accesses, dtype=np.float64) / 1000,
        np.zeros(accesses, np.int32),
    )


def our_side(name: str, stream: Stream, blocks: int, capacity: int) -> Callable[[], int]:
    """A run of one policy; compiled before it is returned."""
    policy = load_policy(name)
    none = np.zeros(0, np.int32)

    def run(some: Stream) -> int:
        replay = Replay(some, blocks, ("zipf",), capacity, Parameters(), flat=True)
        return int(policy.run(replay, none)[0, HITS_ANY])

    first = slice(2)
    run(Stream(*(part[first] for part in stream)))  # type: ignore[arg-type]
    return lambda: run(stream)


def ordered_dict_lru(blocks: NDArray[np.int32], capacity: int) -> int:
    held: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for block in blocks.tolist():
        if block in held:
            hits += 1
            held.move_to_end(block)
        else:
            if len(held) == capacity:
                held.popitem(last=False)
            held[block] = None
    return hits


def write_oracle_general(blocks: NDArray[np.int32], path: Path) -> None:
    records = np.zeros(len(blocks), RECORD)
    records["time"] = np.arange(len(blocks)) // 1000
    records["block"] = blocks + 1
    records["size"] = 1
    records["next"] = -2  # not known; LRU does not look
    records.tofile(path)


def libcachesim_lru(path: Path, options: argparse.Namespace, hash_power: int) -> int:
    libcachesim: Any = importlib.import_module("libcachesim")
    reader = libcachesim.TraceReader(str(path), libcachesim.TraceType.ORACLE_GENERAL_TRACE)
    missed_share, _ = libcachesim.LRU(options.capacity, hashpower=hash_power).process_trace(reader)
    return round((1 - missed_share) * options.accesses)


if __name__ == "__main__":
    raise SystemExit(main())
