"""Host memory: what is asked for is what is taken, and more than there is is refused before anything is taken."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vllm_pensieve.machine import GIB
from vllm_pensieve.swap import host_memory
from vllm_pensieve.swap.host_memory import (
    NotEnoughHostMemoryError,
    allocate_slots,
    available_bytes,
)

MIB = 1024**2
PLENTY = 1024 * GIB

RESIDENT_BYTES_OF_SLOTS = """
import gc, psutil
from vllm_pensieve.swap.host_memory import allocate_slots
def resident(): return psutil.Process().memory_info().rss
allocate_slots(1, [1], False)
before = resident()
slots = allocate_slots(1000, [10007, 32768, 65536], False)
during = resident()
del slots; gc.collect()
print(during - before, resident() - before)
"""


def test_resident_memory_grows_by_what_was_asked_for_and_shrinks_by_it():
    answer = subprocess.run(
        [sys.executable, "-c", RESIDENT_BYTES_OF_SLOTS], capture_output=True, text=True, check=True
    )
    grown, left = map(int, answer.stdout.split())
    assert grown == pytest.approx(1000 * (10007 + 32768 + 65536), rel=0.03)
    assert left < 3 * MIB


def test_each_layer_has_its_slots_one_after_the_other():
    slots = allocate_slots(3, [8, 100], pin=False)
    assert [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in slots] == [
        ((3, 8), (8, 1), torch.uint8),
        ((3, 100), (100, 1), torch.uint8),
    ]
    slots[0][:] = 1
    assert not slots[1].any()


def test_more_than_there_is_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 3 * GIB)
    monkeypatch.setattr(host_memory, "_allocate", pytest.fail)
    with pytest.raises(NotEnoughHostMemoryError) as error:
        allocate_slots(1024, [GIB // 256, GIB // 512], pin=False)
    assert "6.00 GiB" in str(error.value) and "only 3.00 GiB" in str(error.value)
    assert "make the tier smaller" in str(error.value)


def test_workers_that_allocate_together_look_before_any_of_them_takes(monkeypatch):
    """Two that need 2 GiB each where 3 are left: each for itself would find enough."""
    from threading import Barrier, Thread

    from vllm_pensieve.swap.host_memory import Workers

    left, refused, barrier = [3 * GIB], [], Barrier(2)

    def take(num_slots, row_bytes, pin):
        left[0] -= num_slots * row_bytes
        return torch.empty(0)

    monkeypatch.setattr(host_memory, "available_bytes", lambda: left[0])
    monkeypatch.setattr(host_memory, "_allocate", take)

    def work():
        try:
            allocate_slots(1024, [GIB // 512], False, Workers(2, barrier.wait))
        except NotEnoughHostMemoryError as error:
            refused.append(str(error))

    threads = [Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left == [3 * GIB]
    assert len(refused) == 2 and all("4.00 GiB of memory for 2 workers" in line for line in refused)


def test_workers_for_which_there_is_enough_get_it_though_one_is_slow(monkeypatch):
    """The quick one has taken its part before the slow one would look."""
    from threading import Barrier, Thread

    from vllm_pensieve.swap.host_memory import Workers

    left, barrier = [4 * GIB], Barrier(2)

    def take(num_slots, row_bytes, pin):
        left[0] -= num_slots * row_bytes
        return torch.empty(0)

    monkeypatch.setattr(host_memory, "available_bytes", lambda: left[0])
    monkeypatch.setattr(host_memory, "_allocate", take)
    quick = Thread(
        target=allocate_slots, args=(1024, [GIB // 512], False, Workers(2, barrier.wait))
    )
    quick.start()
    allocate_slots(1024, [GIB // 512], False, Workers(2, barrier.wait))
    quick.join()
    assert left == [0]


# -- control groups


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A system of 1 TiB whose control groups are files: call it with the membership and the groups' files."""

    class Memory:
        available = PLENTY

    def make(membership: str, files: dict[str, object]) -> None:
        (tmp_path / "membership").write_text(membership)
        for name, content in files.items():
            file = tmp_path / "mount" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{content}\n")

    monkeypatch.setattr(host_memory, "CGROUP_MOUNT", tmp_path / "mount")
    monkeypatch.setattr(host_memory, "CGROUP_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(host_memory.psutil, "virtual_memory", Memory)
    return make


def test_without_control_groups_it_is_the_memory_of_the_system(system):
    assert available_bytes() == PLENTY
    system("0::/\n", {})
    assert available_bytes() == PLENTY


def test_version_2_leaves_limit_less_use_and_unused_file_pages_count_as_free(system):
    system(
        "0::/app\n",
        {
            "app/memory.max": 8 * GIB,
            "app/memory.current": 5 * GIB,
            "app/memory.stat": f"anon 1\ninactive_file {2 * GIB}\nactive_file 7",
        },
    )
    assert available_bytes() == 5 * GIB


def test_version_1_counts_the_file_pages_of_the_whole_tree(system):
    system(
        "9:cpu,cpuacct:/\n4:memory:/app\n0::/\n",
        {
            "memory/app/memory.limit_in_bytes": 8 * GIB,
            "memory/app/memory.usage_in_bytes": 6 * GIB,
            "memory/app/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}",
        },
    )
    assert available_bytes() == 3 * GIB


def test_the_tightest_group_above_counts(system):
    system(
        "0::/slice/app\n",
        {
            "slice/app/memory.max": "max",
            "slice/app/memory.current": GIB,
            "slice/memory.max": 4 * GIB,
            "slice/memory.current": 3 * GIB,
            "slice/memory.stat": "inactive_file 0",
            "memory.max": 16 * GIB,
            "memory.current": 3 * GIB,
            "memory.stat": "inactive_file 0",
        },
    )
    assert available_bytes() == GIB


def test_a_container_sees_its_group_as_the_mount_itself(system):
    files = {"memory.max": 2 * GIB, "memory.current": GIB, "memory.stat": "inactive_file 0"}
    system("0::/docker/0123\n", files)
    assert available_bytes() == GIB


def test_a_group_over_its_limit_leaves_nothing(system):
    system("0::/\n", {"memory.max": GIB, "memory.current": 2 * GIB, "memory.stat": ""})
    assert available_bytes() == 0


def test_a_group_whose_use_cannot_be_read_is_left_out(system):
    system("0::/app\n", {"app/memory.max": GIB, "memory.max": 2 * GIB, "memory.current": GIB})
    assert available_bytes() == GIB


def test_no_limit_in_version_1_is_no_limit(system):
    system(
        "4:memory:/\n",
        {
            "memory/memory.limit_in_bytes": 9223372036854771712,
            "memory/memory.usage_in_bytes": GIB,
            "memory/memory.stat": "total_inactive_file 0",
        },
    )
    assert available_bytes() == PLENTY


def test_a_system_with_less_memory_than_the_group_allows(system, monkeypatch):
    files = {"memory.max": PLENTY, "memory.current": 0, "memory.stat": "inactive_file 0"}
    system("0::/\n", files)
    monkeypatch.setattr(host_memory.psutil.virtual_memory, "available", GIB)
    assert available_bytes() == GIB
