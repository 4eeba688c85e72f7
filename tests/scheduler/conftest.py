"""Worlds on the tiny model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def v2_state_on_cpu():
    from tests.scheduler.device import let_v2_state_run_on_cpu

    with pytest.MonkeyPatch.context() as monkeypatch:
        let_v2_state_run_on_cpu(monkeypatch)
        yield


@pytest.fixture(scope="session")
def make_world(tiny_model: Path) -> Callable:
    """World(...) on the tiny model."""
    from tests.scheduler.world import World

    return partial(World, tiny_model)
