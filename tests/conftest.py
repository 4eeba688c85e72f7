"""Shared by all tests: vLLM's environment, set before anything imports it, and the tiny model."""

from pathlib import Path

import pytest

from tests.engine import environment

environment.apply()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 4-layer Llama in float32 and a byte-level tokenizer."""
    from tests.engine.models import make_llama

    return make_llama(tmp_path_factory.mktemp("tiny-llama"))
