"""What a policy is: functions over flat arrays that are compiled into the server's order and the simulator's loop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve import policies


@dataclass(frozen=True)
class Cache:
    """What a policy's state is made for: blocks (or slots) 0 .. ids - 1, of which `capacity` fit at a time.

    costs: [positions], to compute the block at each position of a sequence again.
    cost_bucket_ratio: blocks whose costs differ by less than this factor count as equally expensive; 1: none do.
    """

    ids: int
    capacity: int
    costs: NDArray[np.float64]
    cost_bucket_ratio: float = 1.05


@dataclass(frozen=True)
class Policy:
    """Plain Python under `register_jitable`. A state is a named tuple of arrays, `queues` (queues.py) among them.

    new_state(cache): of an empty cache.
    remove(state, block): a cached block is used again.
    evict(state, incoming, now_s) -> block: a cached block leaves, to make room for `incoming` (-1: for anything).
    insert(state, block, position, now_s): a block falls out of use, one that was removed or a new one. position: blocks
        before it in its sequence.

    A server needs two more, of which `evict` is then made up:

    choose(state, now_s) -> block: the one that leaves next; it stays.
    forget(state, block): the content of a removed block is gone; nothing of it may be remembered.

    deepest_first: blocks of a request fall out of use from its end to its front, as vLLM frees them.
    keeps_chosen_workloads: requests of other workloads change nothing.
    """

    new_state: Callable[[Cache], Any]
    remove: Callable[..., None]
    evict: Callable[..., int]
    insert: Callable[..., None]
    choose: Callable[..., int] | None = None
    forget: Callable[..., None] | None = None
    deepest_first: bool = True
    keeps_chosen_workloads: bool = False


@dataclass(frozen=True)
class Clairvoyant:
    """Belady's policy, which is a loop of its own (`analysis/clairvoyant.py`). bypass: it may decline to cache."""

    bypass: bool


def sources_digest() -> str:
    """Of all files of this package: compiled code that is kept on disk must not outlive them."""
    digest = hashlib.sha256()
    for folder in policies.__path__:
        for path in sorted(Path(folder).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
