"""Compiled functions that are kept on disk for the next run, where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """The function compiled by numba, without the interpreter's lock.

    numba keeps it next to the source or in the user's cache folder (NUMBA_CACHE_DIR); if it may write neither, as in a
    container with a read-only file system, the function is compiled again in every process.
    """
    try:
        kept: Function = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder that can be written
        kept = njit(nogil=True)(function)
    return kept
