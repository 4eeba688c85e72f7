"""A real server with little memory: seeded requests after evictions are answered, and the server lives."""

import os
import sys

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.long]


@pytest.fixture(scope="module")
def url(tiny_model, tmp_path_factory):
    from vllm_pensieve.bench.server import ServerCommand, free_port, running

    port = free_port()
    options = {
        "--model": str(tiny_model),
        "--served-model-name": "tiny",
        "--port": str(port),
        "--dtype": "float32",
        "--max-model-len": "1024",
        "--num-gpu-blocks-override": "40",
        "--block-size": "32",
    }
    command = ServerCommand(
        (
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"),
            *(part for option in options.items() for part in option),
        ),
        os.environ | {"VLLM_PENSIEVE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
        port,
        tmp_path_factory.mktemp("server") / "log",
    )
    with running(command) as server:
        server.wait_ready(300, lambda elapsed: None)
        yield command.url


def ask(url, prompt, seed):
    import httpx

    answer = httpx.post(
        f"{url}/v1/completions",
        json={
            "model": "tiny",
            "prompt": prompt,
            "max_tokens": 8,
            "temperature": 0.9,
            "seed": seed,
            "ignore_eos": True,
            "return_token_ids": True,
        },
        timeout=120,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["token_ids"]


def test_a_seeded_request_after_an_eviction_gives_what_it_gave_before(url):
    import httpx

    from vllm_pensieve.testing.served import tokens

    first = {seed: tokens(700, seed=seed) for seed in range(4)}  # 22 of 39 blocks each
    cold = {seed: ask(url, prompt, seed) for seed, prompt in first.items()}
    for _ in range(2):
        assert {seed: ask(url, prompt, seed) for seed, prompt in first.items()} == cold
    metrics = httpx.get(f"{url}/metrics", trust_env=False).text
    dropped = [
        line for line in metrics.splitlines() if "evictions_total{" in line and "dropped" in line
    ]
    assert float(dropped[0].rsplit(" ", 1)[1]) > 0
    assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
