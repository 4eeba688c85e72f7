"""Worlds on the tiny model."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def v2_bookkeeping():
    from vllm_pensieve.testing.device import v2_state_on_cpu

    with v2_state_on_cpu():
        yield


@pytest.fixture(scope="session")
def make_world(tiny_model: Path) -> Callable:
    """World(...) on the tiny model."""
    from vllm_pensieve.testing.world import World

    return partial(World, tiny_model)
