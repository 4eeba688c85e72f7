"""How vLLM runs in tests and scripts: one process, CPU, no network, no cost profile. Apply before vllm is imported."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


def apply() -> None:
    os.environ.update(ENVIRONMENT)
    _have_a_cache_folder_of_its_own()


def _have_a_cache_folder_of_its_own() -> None:
    """The user's may hold a cost profile, by which engines would decide otherwise. What vLLM compiled is kept."""
    theirs = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("VLLM_CACHE_ROOT", str(theirs / "vllm"))
    folder = tempfile.mkdtemp(prefix="pensieve-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = folder
