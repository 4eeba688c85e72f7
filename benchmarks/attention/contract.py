"""What a way to compute attention over scattered blocks offers.

A way is prepared once, as an engine prepares a step's metadata for all layers; only what every layer does is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from benchmarks.attention.problem import Problem


class UnavailableError(Exception):
    """This way is not available here; the message says why."""


class Prepared(NamedTuple):
    """run: computes [batch, queries, heads, head_dim]; note: what it runs, for the table."""

    run: Callable[[], torch.Tensor]
    note: str


@dataclass(frozen=True)
class Way:
    """One way. prepare does not change the problem; it raises UnavailableError if the way is not available."""

    name: str
    prepare: Callable[[Problem], Prepared]


def tried(run: Callable[[], torch.Tensor], what: str) -> Callable[[], torch.Tensor]:
    """`run`, after it has worked once. Raises UnavailableError if it does not: kernels refuse sizes in many ways."""
    try:
        run()
    except Exception as error:
        first_line = str(error).strip().split("\n", maxsplit=1)[0]
        raise UnavailableError(
            f"{what} failed ({type(error).__name__}: {first_line[:200]})"
        ) from error
    return run
