"""Compiled policies are kept on disk, and never outlive the sources they were made of."""

import subprocess
import sys

PROGRAM = """
import numpy as np
from tests.analysis.streams import flat_stream
from vllm_pensieve.analysis.policies import lru
from vllm_pensieve.analysis.policies.kernel import access_kernel
from vllm_pensieve.analysis.policies.policy import Replay

def compiled(sources):
    kernel = access_kernel.__wrapped__(lru.remove, lru.evict, lru.insert, sources)
    stream = flat_stream([0, 1, 0])
    replay = Replay(stream, 2, ("all",), 2)
    tally = np.zeros((1, 6), np.int64)
    kernel(lru.new_state(replay), stream, 2, np.ones(1, np.bool_), tally, np.zeros(0, np.int32))
    assert tally[0, 2] == 1
    return "taken from disk" if kernel.stats.cache_hits else "compiled"

print([compiled("first"), compiled("first"), compiled("changed")])
"""


def test_code_is_taken_from_disk_unless_a_source_has_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("NUMBA_OPT", "0")  # compiles faster
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['compiled', 'taken from disk', 'compiled']"
