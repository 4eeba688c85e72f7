"""A server whose clients hang up all the time: afterwards nothing is held, and a trace line tells of every request."""

import asyncio
import json
import os
import random
import re
import sys
import time

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.long]

CLIENTS = 16
SECONDS = 180


@pytest.fixture
def server(tiny_model, tmp_path):
    from vllm_pensieve.bench.server import ServerCommand, free_port, running

    port = free_port()
    settings = {"host_cache_gib": 0.02, "trace_prefix": str(tmp_path / "trace")}
    arguments = (
        sys.executable, "-m", "vllm_pensieve", "serve", str(tiny_model), "--port", str(port),
        "--served-model-name", "tiny", "--dtype", "float32", "--block-size", "32",
        "--num-gpu-blocks-override", "65", "--max-model-len", "1024", "--enforce-eager",
        "--additional-config", json.dumps({"pensieve": settings}),
    )  # fmt: skip
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with running(ServerCommand(arguments, environment, port, tmp_path / "server.log")) as server:
        server.wait_ready(300, lambda waited_s: None)
        yield server


class Clients:
    """Conversations, most of whose requests are given up after a few pieces of the reply."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.choose = random.Random(1)
        self.prompts = [self._text(self.choose.randrange(200, 900)) for _ in range(24)]
        self.accepted = 0
        self.statuses: dict[int, int] = {}

    def _text(self, length: int) -> str:
        return "".join(self.choose.choices("abcdefgh ", k=length))

    async def hang_up_for(self, seconds: float) -> None:
        import httpx

        async with httpx.AsyncClient(base_url=self.url, timeout=120, trust_env=False) as http:
            end_s = time.monotonic() + seconds
            await asyncio.gather(*[self._one(http, end_s) for _ in range(CLIENTS)])

    async def _one(self, http, end_s: float) -> None:
        while time.monotonic() < end_s:
            chance = self.choose.random()
            prompt = self.choose.choice(self.prompts) + self._text(self.choose.randrange(60))
            request = {
                "model": "tiny",
                "prompt": prompt * 9 if chance < 0.05 else prompt,  # longer than the context
                "max_tokens": 1 if 0.05 < chance < 0.1 else 60,
                "n": 3 if 0.1 < chance < 0.15 else 1,
                "ignore_eos": True,
                "stream": True,
            }
            async with http.stream("POST", "/v1/completions", json=request) as reply:
                self.statuses[reply.status_code] = self.statuses.get(reply.status_code, 0) + 1
                if reply.status_code != 200:
                    continue
                self.accepted += request["n"]
                pieces, wanted = 0, self.choose.randrange(21)
                async for _ in reply.aiter_lines():
                    pieces += 1
                    if pieces > wanted:
                        break


def metric(url: str, name: str, label: str = "") -> float:
    import httpx

    text = httpx.get(f"{url}/metrics", trust_env=False).text
    values = re.findall(rf"^{re.escape(name)}{{[^}}]*{label}[^}}]*}} (\S+)$", text, re.MULTILINE)
    return sum(map(float, values))


def test_three_minutes_of_clients_that_hang_up(server, tmp_path):
    import httpx

    url = server.command.url
    question = {"model": "tiny", "prompt": "What is left? " * 9, "max_tokens": 24, "temperature": 0}

    def ask() -> str:
        reply = httpx.post(f"{url}/v1/completions", json=question, timeout=60, trust_env=False)
        return reply.json()["choices"][0]["text"]

    before = ask()
    clients = Clients(url)
    asyncio.run(clients.hang_up_for(SECONDS))
    server.check_alive()
    assert set(clients.statuses) == {200, 400}
    assert clients.accepted > 100
    deadline_s = time.monotonic() + 60
    while metric(url, "vllm:num_requests_running") + metric(url, "vllm:num_requests_waiting"):
        assert time.monotonic() < deadline_s, "requests that nobody waits for are still under way"
        time.sleep(0.5)
    assert ask() == before
    assert metric(url, "vllm:kv_cache_usage_perc") == 0
    blocks = [metric(url, "vllm:pensieve_blocks", f'state="{s}"') for s in ("resident", "free")]
    assert sum(blocks) == 64
    assert metric(url, "vllm:pensieve_prompt_tokens_total", 'source="swapped"') > 0
    assert metric(url, "vllm:pensieve_failed_loads_total") == 0
    assert "Traceback" not in server.command.log.read_text().split("EngineCore")[-1]
    time.sleep(2)  # the trace is written every second
    lines = [json.loads(line) for line in (tmp_path / "trace_requests.jsonl").open()]
    reasons = [line["finish_reason"] for line in lines]
    assert len(lines) == clients.accepted + 2 and reasons.count("abort") > clients.accepted / 3
