"""The copier for a KV cache in host memory: one thread copies while the model computes."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress

import numpy as np
import torch
from numba import njit
from typing_extensions import override

from vllm_pensieve.compat import let_vllm_scan_llvmlite
from vllm_pensieve.swap.copiers import Copier, CopyError, Indexes, Pairs, copy_error

let_vllm_scan_llvmlite()

_memcpy = ctypes.CDLL(None).memcpy
_memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_memcpy.restype = ctypes.c_void_p


class HostMemoryCopier(Copier):
    """Copies with the CPU. Every copy is made by one thread, so they happen in the order in which they are begun."""

    def __init__(self, rows: Sequence[torch.Tensor], host: Sequence[torch.Tensor]) -> None:
        super().__init__(rows, host)
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="pensieve-copier", initializer=_leave_the_pinned_core
        )
        self._loading: list[Future[None]] = []  # the last load, by layer
        self._begun: list[Future[None]] = []  # what else the next fence waits for
        self._begin_store([]).result()  # compiles the loop before the first request

    @override
    def store(self, pairs: Pairs) -> None:
        if pairs:
            self._begin_store(pairs).result()

    @override
    def load(self, pairs: Pairs) -> None:
        if not pairs:
            return
        indexes = _by_source(*self._load_indexes(pairs))
        self._begun = [copy for copy in self._begun + self._loading if not _went_well(copy)]
        self._loading = [Future() for _ in self._rows]
        self._thread.submit(self._load_layers, *indexes, self._loading)

    @override
    def wait_for_layer(self, layer: int) -> None:
        if self._loading:
            self._wait_for_loading(self._loading[layer])

    @override
    def wait_for_load(self) -> None:
        if self._loading:
            self._wait_for_loading(self._loading[-1])

    @override
    def store_ahead(self, pairs: Pairs) -> None:
        if pairs:
            self._begun.append(self._begin_store(pairs))

    @override
    def load_ahead(self, pairs: Pairs) -> None:
        if pairs:
            indexes = _by_source(*self._load_indexes(pairs))
            self._begun.append(self._thread.submit(self._load_whole, *indexes))

    @override
    def fence(self) -> None:
        begun, self._begun, self._loading = self._begun + self._loading, [], []
        wait(begun)
        for copy in begun:
            copy.result()

    @override
    def synchronize(self) -> None:
        wait(self._begun + self._loading)

    @override
    def close(self) -> None:
        try:
            self.fence()
        finally:
            self._thread.shutdown()

    def _begin_store(self, pairs: Pairs) -> Future[None]:
        return self._thread.submit(self._store_layers, *_by_source(*self._store_indexes(pairs)))

    def _wait_for_loading(self, copy: Future[None]) -> None:
        try:
            copy.result()
        except CopyError:
            wait(self._loading)
            self._loading = []
            raise

    # -- in the thread

    def _store_layers(self, blocks: Indexes, slots: Indexes) -> None:
        try:
            for rows, host in zip(self._rows, self._host, strict=True):
                _copy(rows, blocks, host, slots)
        except Exception as error:
            raise copy_error("store", len(blocks), error) from error

    def _load_whole(self, slots: Indexes, blocks: Indexes) -> None:
        try:
            for host, rows in zip(self._host, self._rows, strict=True):
                _copy(host, slots, rows, blocks)
        except Exception as error:
            raise copy_error("load", len(slots), error) from error

    def _load_layers(self, slots: Indexes, blocks: Indexes, loaded: Sequence[Future[None]]) -> None:
        """Complete the future of each layer; from one that fails on, all of them fail."""
        failed: CopyError | None = None
        for host, rows, layer_loaded in zip(self._host, self._rows, loaded, strict=True):
            try:
                if failed is None:
                    _copy(host, slots, rows, blocks)
            except Exception as error:
                failed = copy_error("load", len(slots), error)
                failed.__cause__ = error
            if failed is None:
                layer_loaded.set_result(None)
            else:
                layer_loaded.set_exception(failed)


def _by_source(from_rows: Indexes, to_rows: Indexes) -> tuple[Indexes, Indexes]:
    """Scattered reads cost more than scattered writes, so the source is read front to back."""
    order = np.argsort(from_rows, kind="stable")
    return from_rows[order], to_rows[order]


def _copy(
    source: torch.Tensor, from_rows: Indexes, destination: torch.Tensor, to_rows: Indexes
) -> None:
    copy_rows(
        (source.data_ptr(), source.stride(0)),
        from_rows,
        (destination.data_ptr(), destination.stride(0)),
        to_rows,
        source.shape[1],
    )


@njit(nogil=True)
def copy_rows(
    source: tuple[int, int],
    from_rows: Indexes,
    destination: tuple[int, int],
    to_rows: Indexes,
    row_bytes: int,
) -> None:
    """Copy row from_rows[i] to row to_rows[i] for every i, without Python's lock held.

    source, destination: address of row 0, and bytes from one row to the next. Nothing is checked.
    """
    for i in range(from_rows.shape[0]):
        _memcpy(
            destination[0] + to_rows[i] * destination[1],
            source[0] + from_rows[i] * source[1],
            row_bytes,
        )


def _went_well(copy: Future[None]) -> bool:
    return copy.done() and copy.exception() is None


def _leave_the_pinned_core() -> None:
    """Let this thread run wherever the parent process may.

    vLLM binds a CPU worker's threads each to one core. A thread started later inherits the core of the main thread,
    and could copy only while that one waits.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        with suppress(OSError):  # the parent is gone, or this system does not allow it
            os.sched_setaffinity(0, os.sched_getaffinity(parent.pid))
