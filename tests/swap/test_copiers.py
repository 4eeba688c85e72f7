"""Both copiers: any sequence of copies gives what the same copies give one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.swap.simulated_cuda import simulated_cuda
from vllm_pensieve.swap import host_copier
from vllm_pensieve.swap.copiers import Copier, CopyError, make_copier
from vllm_pensieve.swap.cuda_copier import CudaCopier, pointers
from vllm_pensieve.swap.host_copier import HostMemoryCopier

LAYERS, BLOCKS, SLOTS = 3, 5, 4
Launch = Callable[[Callable[[], object]], object]


def memory(count: int, row_bytes: list[int], padding: int, seed: int) -> list[torch.Tensor]:
    """Random rows that stand `padding` bytes apart."""
    numbers = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, (count, size + padding), dtype=torch.uint8, generator=numbers)[
            :, :size
        ]
        for size in row_bytes
    ]


def contents(tensors: list[torch.Tensor]) -> list[list[list[int]]]:
    return [tensor.tolist() for tensor in tensors]


class World:
    """A copier under test, and numpy arrays on which the same is done at once."""

    def __init__(
        self, row_bytes: list[int], padding: int, make: Callable[..., Copier], launch: Launch
    ) -> None:
        self.rows = memory(BLOCKS, row_bytes, padding, seed=1)
        self.host = memory(SLOTS, row_bytes, 0, seed=2)
        self.expected_rows = [layer.numpy().copy() for layer in self.rows]
        self.expected_host = [layer.numpy().copy() for layer in self.host]
        self.copier = make(self.rows, self.host)
        self._launch = launch
        self._only_fenced: set[int] = set()  # blocks that only a fence makes safe to change
        self._loading: set[int] = set()

    def store(self, pairs: list[tuple[int, int]]) -> None:
        self.copier.store(pairs)
        self._expect(self.expected_rows, self.expected_host, pairs)

    def store_ahead(self, pairs: list[tuple[int, int]]) -> None:
        self.copier.store_ahead(pairs)
        self._expect(self.expected_rows, self.expected_host, pairs)
        self._only_fenced |= {block for block, _ in pairs}

    def load(self, pairs: list[tuple[int, int]]) -> None:
        pairs = [(slot, block) for block, slot in pairs]
        self.copier.load(pairs)
        self._expect(self.expected_host, self.expected_rows, pairs)
        self._only_fenced |= self._loading
        self._loading = {block for _, block in pairs}

    def compute(self, block: int, whole_load: bool) -> None:
        """As a forward pass does: each layer waits for its load, then reads and changes a block."""
        if block in self._only_fenced:
            self.fence()
        if whole_load:
            self.copier.wait_for_load()
        for layer in range(LAYERS):
            if not whole_load:
                self.copier.wait_for_layer(layer)
            row, expected = self.rows[layer][block], self.expected_rows[layer][block]
            self._launch(lambda row=row: row.mul_(3).add_(1))
            np.add(expected * np.uint8(3), np.uint8(1), out=expected)

    def fence(self) -> None:
        self.copier.fence()
        self._only_fenced, self._loading = set(), set()

    def synchronize(self) -> None:
        """From here on the host may read and write slots itself."""
        self.copier.synchronize()
        self._check_host()
        for slots, expected in zip(self.host, self.expected_host, strict=True):
            slots[0] = 7
            expected[0] = 7

    def check(self) -> None:
        self.copier.close()
        assert contents(self.rows) == [layer.tolist() for layer in self.expected_rows]
        self._check_host()

    def _check_host(self) -> None:
        assert contents(self.host) == [layer.tolist() for layer in self.expected_host]

    @staticmethod
    def _expect(source: list, destination: list, pairs: list[tuple[int, int]]) -> None:
        for layer in range(LAYERS):
            before = source[layer].copy()
            for from_row, to_row in pairs:
                destination[layer][to_row] = before[from_row]


blocks_and_slots = st.builds(
    lambda blocks, slots: list(zip(blocks, slots, strict=False)),
    st.lists(st.integers(0, BLOCKS - 1), unique=True),
    st.lists(st.integers(0, SLOTS - 1), unique=True),
)
calls = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["store", "store_ahead", "load"]), blocks_and_slots),
        st.tuples(st.just("compute"), st.integers(0, BLOCKS - 1), st.booleans()),
        st.tuples(st.sampled_from(["fence", "synchronize"])),
    ),
    max_size=12,
)
row_bytes = st.lists(st.sampled_from([1, 7, 8, 24, 33]), min_size=LAYERS, max_size=LAYERS)


def carry_out(world: World, sequence: list[tuple]) -> None:
    for name, *arguments in sequence:
        getattr(world, name)(*arguments)


@settings(max_examples=100, deadline=None)
@given(calls, row_bytes, st.integers(0, 9))
def test_the_host_copier_copies_in_the_order_asked_for(sequence, row_bytes, padding):
    world = World(row_bytes, padding, HostMemoryCopier, lambda work: work())
    carry_out(world, sequence)
    world.check()


@settings(max_examples=300, deadline=None)
@given(calls, row_bytes, st.integers(0, 9), st.integers(0, 2**32))
def test_the_cuda_copier_orders_its_streams(sequence, row_bytes, padding, seed):
    """Whatever order streams and events leave open gives the same bytes."""
    with simulated_cuda(seed) as device:
        world = World(row_bytes, padding, CudaCopier, device.main.launch)
        carry_out(world, sequence)
        device.main.synchronize()
        world.check()


def test_a_layer_is_there_after_its_wait_and_the_next_need_not_be(monkeypatch):
    gates = [threading.Event() for _ in range(LAYERS)]
    remaining = iter(gates)
    really_copy = host_copier.copy_rows

    def copy_when_let(*arguments: object) -> None:
        assert next(remaining).wait(timeout=10)
        really_copy(*arguments)

    rows, host = memory(2, [8] * LAYERS, 0, seed=1), memory(2, [8] * LAYERS, 0, seed=2)
    copier = HostMemoryCopier(rows, host)
    before = contents(rows)
    monkeypatch.setattr(host_copier, "copy_rows", copy_when_let)
    copier.load([(0, 1)])
    assert contents(rows) == before
    for layer in range(LAYERS):
        gates[layer].set()
        copier.wait_for_layer(layer)
        assert rows[layer][1].tolist() == host[layer][0].tolist()
        assert contents(rows[layer + 1 :]) == before[layer + 1 :]
    copier.close()


def test_a_layer_of_the_cuda_copier_waits_for_no_later_one():
    with simulated_cuda(seed=0) as device:
        rows, host = memory(2, [8] * LAYERS, 0, seed=1), memory(2, [8] * LAYERS, 0, seed=2)
        copier = CudaCopier(rows, host)
        before = contents(rows)
        copier.load([(0, 1)])
        copier.wait_for_layer(0)
        (copies,) = (stream for stream in device.streams if stream is not device.main)
        later = copies.work
        copies.work = type(later)(
            list(later)[:3]
        )  # the wait for the main stream, layer 0, its event
        device.main.synchronize()
        assert rows[0][1].tolist() == host[0][0].tolist()
        assert contents(rows[1:]) == before[1:]


# -- failures


@pytest.fixture
def copier_and_sides():
    rows, host = memory(BLOCKS, [16] * LAYERS, 0, seed=1), memory(SLOTS, [16] * LAYERS, 0, seed=2)
    copier = HostMemoryCopier(rows, host)
    yield copier, rows, host
    copier.close()


def fail_to_copy(*arguments: object) -> None:
    raise MemoryError("out of memory")


def check_usable(copier: Copier, rows: list[torch.Tensor], host: list[torch.Tensor]) -> None:
    copier.fence()  # nothing is left of the error
    copier.load([(1, 2)])
    for layer in range(LAYERS):
        copier.wait_for_layer(layer)
        assert rows[layer][2].tolist() == host[layer][1].tolist()
    copier.store_ahead([(0, 3)])
    copier.fence()
    assert [layer[3].tolist() for layer in host] == [layer[0].tolist() for layer in rows]


@pytest.mark.parametrize(
    ("call", "pairs", "message"),
    [
        (
            "store",
            [(0, 0), (BLOCKS, 1)],
            "the store of 2 blocks failed: there is no block 5, only 5",
        ),
        ("store_ahead", [(0, -1)], "the store of 1 blocks failed: there is no slot -1, only 4"),
        ("load", [(SLOTS, 0)], "the load of 1 blocks failed: there is no slot 4, only 4"),
    ],
)
def test_a_block_or_slot_that_does_not_exist_is_refused_at_once(
    copier_and_sides, call, pairs, message
):
    copier, rows, host = copier_and_sides
    before = contents(rows), contents(host)
    with pytest.raises(CopyError, match=message):
        getattr(copier, call)(pairs)
    assert (contents(rows), contents(host)) == before
    check_usable(copier, rows, host)


def test_a_store_that_fails_says_so_at_once(copier_and_sides, monkeypatch):
    copier, rows, host = copier_and_sides
    with monkeypatch.context() as patch:
        patch.setattr(host_copier, "copy_rows", fail_to_copy)
        with pytest.raises(CopyError, match="the store of 1 blocks failed: out of memory"):
            copier.store([(0, 0)])
    check_usable(copier, rows, host)


@pytest.mark.parametrize(
    "waits",
    [lambda copier: copier.wait_for_layer(1), lambda copier: copier.wait_for_load(), lambda copier: copier.fence()],
    ids=["wait_for_layer", "wait_for_load", "fence"],
)  # fmt: skip
def test_a_load_that_fails_in_the_background_is_told_once_by_what_waits_for_it(
    copier_and_sides, monkeypatch, waits
):
    copier, rows, host = copier_and_sides
    with monkeypatch.context() as patch:
        patch.setattr(host_copier, "copy_rows", fail_to_copy)
        copier.load([(0, 0), (1, 1)])
        with pytest.raises(CopyError, match="the load of 2 blocks failed: out of memory"):
            waits(copier)
    check_usable(copier, rows, host)


def test_a_store_ahead_that_fails_is_told_by_the_fence_also_after_a_failed_load(
    copier_and_sides, monkeypatch
):
    copier, rows, host = copier_and_sides
    with monkeypatch.context() as patch:
        patch.setattr(host_copier, "copy_rows", fail_to_copy)
        copier.store_ahead([(0, 0)])
        copier.load([(1, 1)])
        with pytest.raises(CopyError, match="the load of 1 blocks"):
            copier.wait_for_layer(0)
        with pytest.raises(CopyError, match="the store of 1 blocks"):
            copier.fence()
    check_usable(copier, rows, host)


def test_a_failed_load_is_told_by_the_fence_also_after_another_load(copier_and_sides, monkeypatch):
    copier, rows, host = copier_and_sides
    with monkeypatch.context() as patch:
        patch.setattr(host_copier, "copy_rows", fail_to_copy)
        copier.load([(0, 0), (1, 1)])
        with pytest.raises(CopyError):
            copier.store([(2, 2)])  # by its end the load has failed
    copier.load([(3, 3)])
    copier.wait_for_load()
    with pytest.raises(CopyError, match="the load of 2 blocks failed"):
        copier.fence()
    check_usable(copier, rows, host)


def test_waiting_on_the_host_keeps_an_error_for_the_fence(copier_and_sides, monkeypatch):
    copier, rows, host = copier_and_sides
    with monkeypatch.context() as patch:
        patch.setattr(host_copier, "copy_rows", fail_to_copy)
        copier.store_ahead([(0, 0)])
        copier.synchronize()
    with pytest.raises(CopyError, match="the store of 1 blocks failed"):
        copier.fence()
    check_usable(copier, rows, host)


@pytest.mark.parametrize("copies_before", [0, 1, LAYERS - 1])
def test_the_cuda_copier_tells_what_the_op_raises_and_goes_on(copies_before):
    with simulated_cuda(seed=3) as device:
        world = World([16] * LAYERS, 0, CudaCopier, device.main.launch)
        device.fail_copies_after = copies_before
        with pytest.raises(CopyError, match="the load of 1 blocks failed: CUDA error: invalid"):
            world.copier.load([(0, 0)])
        device.fail_copies_after = device.copies
        with pytest.raises(CopyError, match="the store of 2 blocks failed: CUDA error: invalid"):
            world.copier.store([(0, 0), (1, 1)])
        device.fail_copies_after = None
        world.copier.fence()
        device.main.synchronize()
        for layer in range(copies_before):
            assert world.rows[layer][0].tolist() == world.host[layer][0].tolist()
            world.expected_rows[layer][0] = world.expected_host[layer][0]
        carry_out(world, [("load", [(2, 1)]), ("compute", 2, False), ("store", [(2, 3)])])
        device.main.synchronize()
        world.check()


# -- what a copier is made of


def test_pointers_are_the_addresses_of_the_rows():
    rows = memory(4, [8, 24], 5, seed=1)
    found = pointers(rows, np.array([3, 0]))
    assert found.dtype == torch.int64
    assert found.tolist() == [[layer[3].data_ptr(), layer[0].data_ptr()] for layer in rows]


def test_the_copier_is_chosen_by_the_device():
    rows, host = memory(2, [8], 0, seed=1), memory(2, [8], 0, seed=2)
    copier = make_copier(rows, host)
    assert isinstance(copier, HostMemoryCopier)
    copier.close()
    with pytest.raises(ValueError, match="on 'meta'; blocks can be copied from cpu and cuda only"):
        make_copier([layer.to("meta") for layer in rows], host)


@pytest.mark.parametrize(
    ("rows", "host", "message"),
    [
        ([], [], "0 layers of KV cache and 0 of host memory"),
        (memory(2, [8, 8], 0, 1), memory(2, [8], 0, 1), "2 layers of KV cache and 1 of host"),
        (memory(2, [8, 8], 0, 1), memory(2, [8, 9], 0, 1), "layer 1 has blocks of 8 bytes and slots of 9"),
        ([torch.zeros(2, 8)], memory(2, [8], 0, 1), "layer 0 is not made of contiguous rows of bytes"),
    ],
)  # fmt: skip
def test_sides_that_do_not_match_are_refused(rows, host, message):
    with pytest.raises(ValueError, match=message):
        HostMemoryCopier(rows, host)
