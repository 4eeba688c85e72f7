"""Shared by all tests: vLLM's environment, set before anything imports it, and the tiny model."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vllm_pensieve.testing import environment

environment.apply()
# Whatever started the tests may have had Ctrl-C ignored, as shells do with jobs in the background.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_connector_of_another_engine() -> None:
    """vLLM has one KV connector a process, which an engine that is made next would take for its own."""
    state = sys.modules.get("vllm.distributed.kv_transfer.kv_transfer_state")
    if state is not None:
        state._KV_CONNECTOR_AGENT = None


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 4-layer Llama in float32 and a byte-level tokenizer."""
    from vllm_pensieve.testing.models import make_llama

    return make_llama(tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def bpe_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a tokenizer of pieces of words, and a chat template."""
    from vllm_pensieve.testing.models import make_bpe_llama

    return make_bpe_llama(tmp_path_factory.mktemp("bpe-llama"))


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
    caplog.set_level(logging.INFO, "vllm")  # whatever a command has made it
    return caplog
