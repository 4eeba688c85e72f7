"""Compiled functions that are kept on disk for the next process, where there is a place for them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from llvmlite.binding import ffi
from numba import njit
from numba.core.caching import FunctionCache
from typing_extensions import override

logger = logging.getLogger("vllm.pensieve")
Function = TypeVar("Function", bound=Callable[..., object])


class _Kept(FunctionCache):
    """A cache of compiled code that does without the disk when the disk fails."""

    @override
    def load_overload(self, *args: Any) -> Any:
        try:
            return super().load_overload(*args)
        except OSError as error:
            _warn(error)

    @override
    def save_overload(self, *args: Any) -> None:
        try:
            super().save_overload(*args)
        except OSError as error:
            _warn(error)


def compiled(function: Function) -> Function:
    """The function compiled by numba, without the interpreter's lock.

    numba keeps the code next to the source or in the user's cache folder (NUMBA_CACHE_DIR). Where it may write neither,
    as in a container with a read-only file system, the function is compiled again in every process.
    """
    made: Any = njit(nogil=True)(function)
    try:
        made._cache = _Kept(function)
    except RuntimeError as error:  # no folder that can be written
        _warn(error)
    kept: Function = made
    return kept


def _warn(error: Exception) -> None:
    _warn_once()
    logger.debug("Pensieve: %s", error)


@cache
def _warn_once() -> None:
    logger.warning(
        "Pensieve: compiled code cannot be kept on disk, so every process compiles it again when it starts, which "
        "takes seconds; set NUMBA_CACHE_DIR to a folder that can be written"
    )


def let_vllm_scan_llvmlite() -> None:
    """Give llvmlite's library object an instance dictionary. Idempotent.

    On a CPU vLLM calls `vars` on the attributes of every module when an engine is made. llvmlite's object answers any
    attribute, so also `__dict__`, with a function of the library, on which vLLM 0.32 fails.
    """

    class Library(ffi._lib_wrapper):
        pass

    if isinstance(getattr(ffi.lib, "__dict__", None), dict):
        return
    library = Library.__new__(Library)
    for name in ffi._lib_wrapper.__slots__:
        setattr(library, name, getattr(ffi.lib, name))
    ffi.lib = library


let_vllm_scan_llvmlite()
