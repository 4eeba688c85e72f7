"""Shared by all tests: vLLM's environment, set before anything imports it, and the tiny model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine import environment

environment.apply()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 4-layer Llama in float32 and a byte-level tokenizer."""
    from tests.engine.models import make_llama

    return make_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def keep_alive() -> Callable:
    """keep_alive(engine): the first engine of a process to go would take the others' process groups with it."""
    engines: list[object] = []
    return engines.append


@pytest.fixture
def caplog_vllm(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """caplog for vLLM's loggers, which do not propagate."""
    import logging

    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    return caplog
