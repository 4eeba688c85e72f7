"""Compiled policies are kept on disk, never outlive the sources they were made of, and do without a disk."""

import os
import subprocess
import sys

import pytest

LOOK = """
from vllm_pensieve.policies import lru
from vllm_pensieve.policies.order import Order, _compile
from vllm_pensieve.policies.policy import Cache
import numpy as np

def compiled(sources):
    policy = lru.POLICY
    functions = (policy.remove, policy.evict, policy.insert, policy.choose, policy.forget)
    made = _compile.__wrapped__(*functions, policy.deepest_first, sources)
    assert made.forget(policy.new_state(Cache(2, 2, np.ones(1))), np.zeros(1, np.int32)) == 0
    return "taken from disk" if made.forget.stats.cache_hits else "compiled"

print([compiled("first"), compiled("first"), compiled("changed")])
"""
SIMULATE = """
import sys
from vllm_pensieve.cli import main
sys.argv = ["pensieve", "simulate", sys.argv[1], "--capacity", "2", "--policy", "lru"]
main()
"""
SERVE = """
from tests.policies.orders import order_of
order = order_of("lru")
order.insert([1, 0], [1, 0], 0.0)
assert order.evict(2, 1.0) == [1, 0]
"""
WARNING = "compiled code cannot be kept on disk"


def run(program, *arguments, **environment):
    """Compiled with few optimisations, which takes less time."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NUMBA_OPT": "0", **environment},
    )


def test_code_is_taken_from_disk_unless_a_source_has_changed(tmp_path):
    done = run(LOOK, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.stdout.strip() == "['compiled', 'taken from disk', 'compiled']"


@pytest.fixture(params=["no folder can be made", "the disk fails later"])
def broken_disk(request, tmp_path):
    """Settings under which nothing can be kept, and what makes it so in the process."""
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    if request.param == "no folder can be made":
        # Root may write next to the sources and into any home: only the folder that is set counts.
        locators = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
        return locators | {"NUMBA_CACHE_DIR": str(not_a_folder)}, ""
    folder = tmp_path / "kept"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    return {"NUMBA_CACHE_DIR": str(folder)}, ignore + limit


@pytest.mark.parametrize("program", [SIMULATE, SERVE], ids=["simulator", "server"])
def test_without_a_place_on_disk_there_is_one_warning_and_no_failure(
    program, broken_disk, tmp_path
):
    from tests.trace.traces import MOONCAKE, write

    environment, before = broken_disk
    trace = write(tmp_path / "chat.jsonl", MOONCAKE)
    done = run(before + program, trace, **environment)
    assert done.stderr.count(WARNING) == done.stderr.count("set NUMBA_CACHE_DIR") == 1, done.stderr
    assert "Traceback" not in done.stderr
