"""Each patch of patches/ applies to the installed vLLM, and what it is for fails without it and works with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.scripts import ROOT, load

patches = load("vllm_patches")

GENERATOR = """
from vllm_pensieve.testing.environment import apply
apply()
import sys
from pathlib import Path
from vllm import LLM, SamplingParams
from vllm_pensieve.testing.models import make_llama

def sampled(step_tokens):
    llm = LLM(str(model), dtype="float32", enforce_eager=True, block_size=32, max_model_len=512,
              max_num_batched_tokens=step_tokens, max_num_seqs=4, num_gpu_blocks_override=40)
    prompt = {"prompt_token_ids": [i % 250 for i in range(200)]}
    sampling = SamplingParams(temperature=1.0, seed=7, max_tokens=12, ignore_eos=True)
    return list(llm.generate([prompt], sampling, use_tqdm=False)[0].outputs[0].token_ids)

model = make_llama(Path(sys.argv[1]) / "model")
whole, in_chunks = sampled(512), sampled(64)
assert in_chunks == whole, (in_chunks, whole)
print("works")
"""
PREEMPTION = """
from vllm_pensieve.testing.environment import apply
apply()
import sys
from functools import partial
from pathlib import Path
from vllm_pensieve.testing.models import make_llama
from tests.scheduler.test_priority_preemption import MEMORY, false_blocks
from vllm_pensieve.testing.world import World, stock_scheduler

world = partial(World, make_llama(Path(sys.argv[1]) / "model"))
false = [blocks for blocks in MEMORY if false_blocks(world, blocks, scheduler=stock_scheduler)]
assert not false, f"blocks that were never computed are cached with memory for {false}"
print("works")
"""
SCAN = """
import numba
from llvmlite.binding import ffi
from vllm.triton_utils.dispatcher import _rebind_kernels

ffi.lib.LLVMPY_GetDefaultTargetTriple
_rebind_kernels([(object(), object())])
print("works")
"""
COMMAND = """
import runpy
import sys

sys.argv = ["vllm", "--version"]
try:
    runpy.run_module("vllm.entrypoints.cli.main", run_name="__main__")
except SystemExit as done:
    assert not done.code, done.code
print("works")
"""
PURPOSES = {
    "attributes-without-a-dictionary": (SCAN, "has no attribute 'get'"),
    "blocks-of-a-preempted-step": (PREEMPTION, "never computed are cached with memory for [20]"),
    "seeded-partial-prefill": (GENERATOR, "CPU Generator does not use offset"),
    "version-of-the-cpu-wheel": (COMMAND, "No package metadata was found for vllm"),
}


def run(program: str, folder: Path, *path: Path) -> subprocess.CompletedProcess[str]:
    """A program in a process that finds `path` before the installed packages."""
    places = os.pathsep.join(map(str, (*path, ROOT)))
    environment = {**os.environ, "PYTHONPATH": places, "VLLM_PLUGINS": ""}
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


@pytest.fixture(scope="module", params=patches.PATCHES, ids=lambda patch: patch.stem)
def patch(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_patch_has_a_purpose_and_tests_of_vllms_that_answer_for_it() -> None:
    names = {patch.stem for patch in patches.PATCHES}
    assert names == set(PURPOSES) == set(patches.TESTS)


def test_every_patch_is_described() -> None:
    described = (ROOT / "patches" / "README.md").read_text()
    assert [patch.name for patch in patches.PATCHES if patch.name not in described] == []


def test_all_patches_together_apply_to_the_installed_vllm(tmp_path: Path) -> None:
    patches.make_overlay(tmp_path, patches.PATCHES, patches.installed_vllm())


def test_a_patch_that_does_not_apply_is_named(tmp_path: Path, patch: Path) -> None:
    patches.make_overlay(tmp_path, [patch], patches.installed_vllm())
    with pytest.raises(patches.PatchError, match=f"{patch.name} does not apply: .*patch failed"):
        patches.apply(patch, tmp_path)


def test_the_installed_vllm_is_not_written_to(tmp_path: Path, patch: Path) -> None:
    package = patches.installed_vllm()
    before = [(package.parent / name).read_bytes() for name in patches.changed_files(patch)]
    patches.make_overlay(tmp_path, [patch], package)
    after = [(package.parent / name).read_bytes() for name in patches.changed_files(patch)]
    changed = [(tmp_path / name).read_bytes() for name in patches.changed_files(patch)]
    assert before == after
    assert all(a != b for a, b in zip(before, changed, strict=True))


@pytest.mark.engine
def test_what_a_patch_is_for_fails_without_it_and_works_with_it(
    tmp_path: Path, patch: Path
) -> None:
    program, trouble = PURPOSES[patch.stem]
    stock = run(program, tmp_path)
    assert stock.returncode and trouble in stock.stderr, stock.stderr[-2000:]
    overlay = tmp_path / "overlay"
    patches.make_overlay(overlay, [patch], patches.installed_vllm())
    patched = run(program, tmp_path, overlay)
    assert patched.stdout.endswith("works\n"), patched.stderr[-2000:]
