"""Checks the patches of patches/: that they apply to vLLM's source archive, and that vLLM's own tests pass with them.

    .venv/bin/python scripts/vllm_patches.py [PATCH ...]         # both, for these or for all
    .venv/bin/python scripts/vllm_patches.py --overlay FOLDER    # a patched vLLM to try: PYTHONPATH=FOLDER

An overlay is a folder with vLLM's package in which all files are links to the installed ones but those that a patch
changes. The installed package is never written to.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATCHES = sorted((ROOT / "patches").glob("*.patch"))
TESTS = {
    "attributes-without-a-dictionary": ["v1/core/test_async_scheduler.py"],
    "blocks-of-a-preempted-step": [
        "v1/core/test_scheduler.py",
        "v1/core/test_async_scheduler.py",
        "v1/core/test_prefix_caching.py",
        "v1/core/test_deferred_block_free.py",
    ],
    "seeded-partial-prefill": ["v1/sample/test_sampler.py", "v1/worker/test_gpu_input_batch.py"],
    "version-of-the-cpu-wheel": ["test_version.py", "entrypoints/cli/test_serve.py"],
}
"""Files of vLLM's tests/ that answer for what a patch changes, by the patch's name."""


class PatchError(RuntimeError):
    """A patch does not apply."""


def installed_vllm() -> Path:
    """The folder of the installed package."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("vllm_patches: vLLM is not installed; run 'make setup-dev' first.")
    return Path(spec.submodule_search_locations[0]).resolve()


def changed_files(patch: Path) -> list[str]:
    """The files that a patch changes, relative to the root of vLLM's source archive."""
    lines = patch.read_text().splitlines()
    return [line.removeprefix("+++ b/") for line in lines if line.startswith("+++ b/")]


def apply(patch: Path, root: Path) -> None:
    """Apply a patch in a folder that holds `vllm/`.

    Raises:
        PatchError: it does not apply, not even in part.
    """
    # Inside another repository git would take the paths for those of that repository, and skip them.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(root.resolve().parent)}
    done = subprocess.run(
        ["git", "apply", str(patch.resolve())],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise PatchError(f"{patch.name} does not apply: {done.stderr.strip()}")


def copy_of(files: Iterable[str], source: Path, root: Path) -> None:
    """Copy files of a folder to the same places in another one, in place of what is there."""
    for name in files:
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copyfile(source / name, target)


def make_overlay(root: Path, patches: Sequence[Path], package: Path) -> None:
    """A patched vLLM in `root`, for PYTHONPATH.

    package: the unpatched package, of which the overlay holds links.
    """
    shutil.copytree(package, root / "vllm", copy_function=os.symlink, ignore=_compiled_python)
    for patch in patches:
        # A link is replaced once; a file that another patch has changed already stays as it is.
        linked = [name for name in changed_files(patch) if (root / name).is_symlink()]
        copy_of(linked, package.parent, root)
        apply(patch, root)


def _compiled_python(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def check_against_archive(patches: Sequence[Path]) -> None:
    """Apply each patch alone, and all of them together, to the files of vLLM's source archive."""
    import vllm_conformance_sources

    archive = vllm_conformance_sources.sources("vllm")
    for chosen in (*([patch] for patch in patches), list(patches)):
        with tempfile.TemporaryDirectory() as folder:
            names = {name for patch in chosen for name in changed_files(patch)}
            copy_of(names, archive, Path(folder))
            for patch in chosen:
                apply(patch, Path(folder))
    print(f"patches: {len(patches)} apply to vLLM's source archive, alone and together")


def run_tests(patch: Path) -> bool:
    """vLLM's own tests without and with a patch; whether every test that passed before still passes."""
    import vllm_conformance_sources

    tests = vllm_conformance_sources.sources("tests")
    report = ROOT / "scripts" / "vllm_conformance_report.py"
    with tempfile.TemporaryDirectory() as work:
        overlay, results = Path(work) / "overlay", []
        make_overlay(overlay, [patch], installed_vllm())
        for name, path in (("stock", ""), ("patched", str(overlay))):
            print(f"patches: vLLM's tests, {patch.stem}, {name}", flush=True)
            results.append(Path(work) / f"{name}.xml")
            run_vllm_tests(tests, TESTS[patch.stem], results[-1], path)
        return subprocess.run([sys.executable, report, *results, "patched"]).returncode == 0


def run_vllm_tests(tests: Path, files: Sequence[str], results: Path, path: str) -> None:
    """Run files of vLLM's tests with what `path` puts before the installed packages."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": "",
        "PYTHONPATH": path,
    }
    # Failing tests are expected (some need models from a hub); a run that did not happen leaves no results.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            f"--junit-xml={results}",
            *(f"tests/{name}" for name in files),
        ],
        cwd=tests,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if not results.exists():
        sys.exit(f"{done.stdout[-4000:]}\npatches: pytest did not run")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("patches", nargs="*", type=Path, help="files of patches/; all by default")
    parser.add_argument("--overlay", type=Path, help="make a patched vLLM in this new folder")
    options = parser.parse_args()
    patches = options.patches or PATCHES
    for patch in patches:
        if patch.stem not in TESTS or not patch.is_file():
            parser.error(f"{patch}: there is no such file in patches/")
    try:
        if options.overlay is not None:
            if options.overlay.exists():
                parser.error(f"{options.overlay} exists; name a new folder")
            make_overlay(options.overlay, patches, installed_vllm())
            print(f"patches: PYTHONPATH={options.overlay} has vLLM with {len(patches)} patches")
            return
        check_against_archive(patches)
    except PatchError as error:
        sys.exit(f"patches: {error}")
    passed = [run_tests(patch) for patch in patches]
    sys.exit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
