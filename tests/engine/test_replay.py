"""A trace that vLLM's own benchmark replays, and the plugin records, simulates as the trace it came from."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.trace.traces import write
from vllm_pensieve.trace.readers import read_trace

pytestmark = pytest.mark.engine

MOONCAKE = (
    Path(__file__).parents[3] / "shared" / "data" / "mooncake" / "conversation_trace.jsonl.gz"
)
BLOCK = 32
MOONCAKE_BLOCK = 512
LONGEST = 4096
REQUESTS = 60


def conversations() -> list[dict[str, Any]]:
    """Sessions that share a beginning and come back, some prompts word for word; a last block is often partial."""
    random = Random(5)
    new_id = iter(range(100, 10_000))
    histories = [[1, 2, 3] for _ in range(12)]
    lines = []
    for number in range(REQUESTS):
        history = random.choice(histories)
        history += [next(new_id) for _ in range(random.randrange(3))]
        partial = random.choice([0, 0, 1, 17, 31])
        ids = history + ([next(new_id)] if partial else [])
        lines.append(_line(1000 * number, BLOCK * len(history) + partial, ids))
    return lines


def scaled_mooncake() -> list[dict[str, Any]]:
    """The first requests of the public trace, their blocks of 512 tokens made blocks of 32."""
    scale = MOONCAKE_BLOCK // BLOCK
    lines = []
    for record in map(json.loads, gzip.decompress(MOONCAKE.read_bytes()).splitlines()):
        tokens = -(-record["input_length"] // scale)
        if tokens < LONGEST - 8:
            lines.append(_line(record["timestamp"], tokens, record["hash_ids"]))
        if len(lines) == REQUESTS:
            break
    return lines


def _line(timestamp: int, tokens: int, ids: list[int]) -> dict[str, Any]:
    return {"timestamp": timestamp, "input_length": tokens, "output_length": 2, "hash_ids": ids}


def with_ends_apart(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A last block that is not full is nobody else's, as vLLM has it and the recorder numbers it."""
    apart = []
    for number, line in enumerate(lines):
        ids = line["hash_ids"]
        if line["input_length"] % BLOCK:
            ids = [*ids[:-1], f"the end of {number}"]
        apart.append(line | {"hash_ids": ids})
    return apart


@pytest.fixture(scope="module")
def replayed(
    tiny_model: Path, keep_alive: Callable, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """By source: its lines, and what the plugin recorded of their replay by engine and scheduler, tokens made up."""
    from vllm import LLM

    sources = {"conversations": conversations()}
    if MOONCAKE.exists():
        sources["mooncake"] = scaled_mooncake()
    folder = tmp_path_factory.mktemp("recorded")
    engine = LLM(
        model=str(tiny_model),
        distributed_executor_backend="vllm_pensieve.simulator.SimulatedExecutor",
        additional_config={"pensieve": {"trace_prefix": str(folder / "replay")}},
        block_size=BLOCK,
        num_gpu_blocks_override=2 * REQUESTS * LONGEST // BLOCK,
        max_model_len=LONGEST,
    )
    keep_alive(engine)
    for name, lines in sources.items():
        replay(engine, write(folder / f"{name}.jsonl", lines), lines)
    engine.llm_engine.engine_core.engine_core.scheduler.end_trace()
    recorded = [json.loads(line) for line in (folder / "replay_requests.jsonl").open()]
    return {
        name: (lines, recorded[REQUESTS * number :][:REQUESTS])
        for number, (name, lines) in enumerate(sources.items())
    }


def replay(engine: Any, path: Path, lines: list[dict[str, Any]]) -> None:
    """Serve the prompts that `vllm bench serve --dataset-name timed_trace` makes of a trace, one after the other.

    Requests of one engine step would find nothing of each other.
    """
    from vllm import SamplingParams
    from vllm.benchmarks.datasets.datasets import TimedTrace

    labels = ("timestamp", "input_length", "output_length", "hash_ids")
    dataset = TimedTrace(
        dataset_path=str(path),
        timed_trace_chunk_hash_size=BLOCK,
        timed_trace_sec_multiplier=0.001,
        **{f"timed_trace_label_{label}": label for label in labels},
    )
    samples = dataset.sample(engine.get_tokenizer(), len(lines))
    assert [sample.prompt_len for sample in samples] == [line["input_length"] for line in lines]
    for sample in samples:
        parameters = SamplingParams(max_tokens=sample.expected_output_len, ignore_eos=True)
        engine.generate({"prompt_token_ids": sample.prompt}, parameters, use_tqdm=False)


@pytest.mark.parametrize("source", ["conversations", "mooncake"])
def test_a_recorded_replay_simulates_as_its_source(replayed, tmp_path, source):
    if source not in replayed:
        pytest.skip(f"no {MOONCAKE}: the public data of ../shared is not part of the repository")
    lines, records = replayed[source]
    found = read_trace(write(tmp_path / "recorded_requests.jsonl", records))
    expected = read_trace(
        write(tmp_path / "source.jsonl", with_ends_apart(lines)), block_tokens=BLOCK
    )
    assert (found.format, found.block_tokens, found.requests) == ("pensieve", BLOCK, REQUESTS)
    assert found.notes == expected.notes == ()
    for measure in ("accesses", "unique_blocks", "infinite_hits"):
        assert getattr(found, measure) == getattr(expected, measure), measure
    assert found.infinite_hits > 0


def test_the_engine_found_what_a_simulation_without_limit_hits(replayed):
    """All of it but the last block of a prompt that is known to its end: vLLM computes the last token anew."""
    lines, records = replayed["conversations"]
    known: set[int] = set()
    for line, record in zip(lines, records, strict=True):
        full = line["hash_ids"][: line["input_length"] // BLOCK]
        hits = sum(block in known for block in full)
        hits = min(hits, (line["input_length"] - 1) // BLOCK)
        assert record["prompt_tokens_resident"] == BLOCK * hits
        known.update(full)
