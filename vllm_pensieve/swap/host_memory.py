"""Host memory for the copies of blocks: what is asked for is what is taken, or it is refused."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from vllm_pensieve.machine import GIB

if TYPE_CHECKING:
    import torch

CGROUP_MOUNT = Path("/sys/fs/cgroup")
CGROUP_MEMBERSHIP = Path("/proc/self/cgroup")


class NotEnoughHostMemoryError(RuntimeError):
    """More host memory was asked for than this process may still allocate."""


@dataclass(frozen=True)
class Workers:
    """Processes that share this machine's memory, each about to take as much of it.

    meet: returns when all of them have called it.
    """

    count: int
    meet: Callable[[], object]


ALONE = Workers(1, lambda: None)


def allocate_slots(
    num_slots: int, row_bytes: Sequence[int], pin: bool, workers: Workers = ALONE
) -> list[torch.Tensor]:
    """For each layer memory [num_slots, row_bytes of the layer] of type uint8, all of it resident.

    pin: register it with CUDA, which copies several times faster from such memory; it stays registered until the
        process ends, so keep the tensors.
    workers: all that allocate now. What each of them needs before it must have been taken when it calls this.

    Raises:
        NotEnoughHostMemoryError: before anything is allocated, by any of the workers.
        RuntimeError: the memory cannot be pinned.
    """
    asked = workers.count * num_slots * sum(row_bytes)
    workers.meet()  # the last one has what it needed before
    available = available_bytes()
    workers.meet()  # nobody takes any before all have looked
    if asked > available:
        whose = f" for {workers.count} workers" if workers.count > 1 else ""
        raise NotEnoughHostMemoryError(
            f"the host tier was to have {asked / GIB:.2f} GiB of memory{whose}, but this process may allocate only "
            f"{available / GIB:.2f} GiB more; make the tier smaller, free memory, or raise the container's limit"
        )
    return [_allocate(num_slots, layer_bytes, pin) for layer_bytes in row_bytes]


def _allocate(num_slots: int, row_bytes: int, pin: bool) -> torch.Tensor:
    import torch

    # Pages of its own: exact, given back to the system when freed, and no page is pinned twice.
    pages = mmap.mmap(-1, num_slots * row_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    slots = torch.frombuffer(pages, dtype=torch.uint8).view(num_slots, row_bytes)
    slots.zero_()
    if pin:
        _pin(slots)
    return slots


def _pin(slots: torch.Tensor) -> None:
    """Register with CUDA. torch's own pinned allocator would round the size up to a power of two."""
    import torch

    status = torch.cuda.cudart().cudaHostRegister(slots.data_ptr(), slots.nbytes, 0)
    if status.value != 0:
        raise RuntimeError(
            f"{slots.nbytes / GIB:.2f} GiB of host memory cannot be pinned (cudaHostRegister: {status}); "
            "make the host tier smaller, or raise the limit on locked memory (ulimit -l)"
        )


def available_bytes() -> int:
    """Bytes that this process may still allocate: the system's available memory, or less in a control group."""
    groups = _cgroup_headrooms(CGROUP_MOUNT, CGROUP_MEMBERSHIP)
    return max(0, min([psutil.virtual_memory().available, *groups]))


def _cgroup_headrooms(mount: Path, membership: Path) -> Iterator[int]:
    """What each control group with a limit, from this process's own to the outermost, still leaves in bytes.

    Cached file pages that have not been used lately count as free: the kernel drops them first.
    """
    for line in membership.read_text().splitlines() if membership.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            yield from _headrooms(
                [mount, mount / "unified"],
                path,
                ("memory.max", "memory.current", "inactive_file"),
            )
        elif "memory" in controllers.split(","):
            yield from _headrooms(
                [mount / "memory"],
                path,
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            )


def _headrooms(mounts: Sequence[Path], path: str, names: tuple[str, str, str]) -> Iterator[int]:
    limit_name, usage_name, cache_name = names
    own = Path(path.lstrip("/"))
    # A container may see its own group as the mount itself, whatever its path outside: missing folders are skipped.
    for folder in (mount / group for mount in mounts for group in (own, *own.parents)):
        limit, used = _read(folder / limit_name).strip(), _read(folder / usage_name).strip()
        if not limit.isdigit() or not used.isdigit():  # no such group, no limit ("max"), or hidden
            continue
        cached = [
            int(line.split()[1])
            for line in _read(folder / "memory.stat").splitlines()
            if line.startswith(f"{cache_name} ")
        ]
        yield int(limit) - int(used) + sum(cached)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
