"""The policies by name: in which file each is, and whether a server can run it. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_pensieve.policies.policy import Clairvoyant, Policy

GHOSTS = "it remembers evicted blocks by their content"
FUTURE = "it needs to know the future"
IN_USE = "it evicts blocks that are in use"
WORKLOADS = "a server does not know which workload a request belongs to"


@dataclass(frozen=True)
class Entry:
    """A policy.

    file: the module of this package that holds it. evicts: what leaves first, for tables.
    served_as: its name as `eviction_policy`; empty if it can only be simulated, for which `simulated_only` is why.
    """

    file: str
    evicts: str
    served_as: str = ""
    simulated_only: str = ""


# fmt: off
POLICIES = {
    "retention": Entry("retention", "smallest cost to compute again / idle time", "retention"),
    "lru": Entry("lru", "least recently used; of one request the deepest block, as in vLLM", "lru"),
    "lru-head-first": Entry("lru_head_first", "least recently used; the leading block first", "lru-head-first"),
    "fifo": Entry("fifo", "first in, as in textbooks", simulated_only=IN_USE),
    "fifo-as-served": Entry("fifo_as_served", "first in; blocks in use stay", "fifo"),
    "lfu": Entry("lfu", "least frequently used since it came", "lfu"),
    "gdsf": Entry("gdsf", "smallest uses x cost to compute again, aged (Cherkasova 1998)", "gdsf"),
    "sieve": Entry("sieve", "first in, sparing what was used since the last look (NSDI 2024)", "sieve"),
    "arc": Entry("arc", "used once or used again, in an adaptive balance (FAST 2003)", simulated_only=GHOSTS),
    "s3-fifo": Entry("s3_fifo", "first in, from a small queue or a main one (SOSP 2023)", simulated_only=GHOSTS),
    "w-tinylfu": Entry("w_tinylfu", "least recently used, if also rarely used (TOS 2017)", simulated_only=GHOSTS),
    "workload-aware-lru": Entry("workload_aware_lru", "`lru` of `--cache-workloads` only", simulated_only=WORKLOADS),
    "min": Entry("minimum", "needed last, or not kept: the optimum for a stream of blocks", simulated_only=FUTURE),
    "belady": Entry("belady", "needed last; what is looked up must be kept", simulated_only=FUTURE),
}
# fmt: on


def served() -> dict[str, str]:
    """The policies that a server can run: name as `eviction_policy` -> name here."""
    return {entry.served_as: name for name, entry in POLICIES.items() if entry.served_as}


def allowed_instead(name: str) -> str:
    """What to choose instead of a name that is no `eviction_policy`, and what it is if it is a policy at all."""
    known = f"one of {', '.join(served())}"
    entry = POLICIES.get(name)
    if entry is None:
        return known
    if entry.served_as:
        return f"{known} ({name} of simulations is {entry.served_as} here)"
    return f"{known} ({name} is for simulations only: {entry.simulated_only})"


def load_policy(name: str) -> Policy | Clairvoyant:
    """The policy of this name, ready to be compiled. KeyError if there is none."""
    file = POLICIES[name].file
    policy: Policy | Clairvoyant = import_module(f"{__package__}.{file}").POLICY
    return policy
