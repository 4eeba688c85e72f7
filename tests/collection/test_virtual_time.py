"""Virtual time: a pause costs nothing and the clocks show it."""

import threading
import time

from vllm_pensieve.collection.virtual_time import VirtualTime


def test_a_pause_moves_all_clocks_on_and_is_not_waited_for():
    real_s = time.perf_counter()
    with VirtualTime():
        before = (time.time(), time.monotonic(), time.perf_counter(), time.time_ns() / 1e9)
        time.sleep(3600)
        after = (time.time(), time.monotonic(), time.perf_counter(), time.time_ns() / 1e9)
    assert time.perf_counter() - real_s < 60
    for earlier, later in zip(before, after, strict=True):
        assert 3600 <= later - earlier < 3660


def test_the_clocks_are_real_again_afterwards():
    stock = (time.time, time.monotonic, time.perf_counter, time.sleep, time.monotonic_ns)
    with VirtualTime():
        assert time.monotonic is not stock[1]
    assert (time.time, time.monotonic, time.perf_counter, time.sleep, time.monotonic_ns) == stock


def test_another_thread_waits_for_its_pauses():
    real_s = time.perf_counter()
    with VirtualTime():
        thread = threading.Thread(target=lambda: time.sleep(0.05))
        thread.start()
        thread.join()
    assert time.perf_counter() - real_s >= 0.05
