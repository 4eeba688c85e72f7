"""Engines on the tiny model, and stock vLLM's answers to compare with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def serve(tiny_model: Path, keep_alive: Callable) -> Callable:
    """serve(...) is Served(...) on the tiny model, or on another one."""
    from vllm_pensieve.testing.served import Served

    def start(model: Path = tiny_model, **options: Any) -> Served:
        served = Served(model, **options)
        keep_alive(served)
        return served

    return start


@pytest.fixture(scope="session")
def reference(serve: Callable) -> Callable:
    """reference(prompt, output_tokens): the output of stock vLLM with ample memory, the prompt alone in its batch."""
    stock = serve(scheduler=None, blocks=1500)
    known: dict[tuple[tuple[int, ...], int], object] = {}

    def output(prompt: list[int], output_tokens: int = 8):
        key = (tuple(prompt), output_tokens)
        if key not in known:
            (known[key],) = stock.serve([prompt], output_tokens)
        return known[key]

    return output


@pytest.fixture(scope="session")
def assert_equal(reference: Callable) -> Callable:
    """assert_equal(output, prompt): token ids as stock's, logprobs within 1e-5."""
    from vllm_pensieve.testing.served import largest_logprob_difference, token_ids

    def check(output, prompt: list[int]) -> None:
        want = reference(prompt, len(token_ids(output)))
        assert token_ids(output) == token_ids(want)
        assert largest_logprob_difference(output, want) < 1e-5

    return check
