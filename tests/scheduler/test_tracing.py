"""What the scheduler has recorded when an engine ends, in whatever state."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from vllm_pensieve.scheduler import make_scheduler
from vllm_pensieve.trace.writer import TraceWriter
from vllm_pensieve.vllm_hooks.stopping import wait_for_traces


@pytest.fixture
def traced(make_world, tmp_path):
    """traced(...) is a World that records a trace, with `lines(kind)`."""

    def make(**options):
        settings = options.pop("settings", {}) | {"trace_prefix": str(tmp_path / "t")}
        world = make_world(settings=settings, **options)

        def lines(kind):
            path = tmp_path / f"t_{kind}.jsonl"
            return [json.loads(line) for line in path.read_text().splitlines()]

        world.lines = lines
        return world

    return make


def assert_sources_add_up(world, records):
    sources = ("resident", "swapped", "recovered", "new")
    for record in records:
        tokens = [record[f"prompt_tokens_{source}"] for source in sources]
        assert min(tokens) >= 0 and sum(tokens) == record["prompt_tokens"]
    admitted = [record for record in records if record["queue_s"] is not None]
    for source, total in world.scheduler.pensieve_stats.prompt_tokens.items():
        assert sum(record[f"prompt_tokens_{source}"] for record in admitted) == total


@pytest.mark.parametrize(("steps_in_flight", "runner"), [(1, "v1"), (2, "v2")])
def test_requests_under_way_and_waiting_ones_have_a_line_too(traced, steps_in_flight, runner):
    from vllm_pensieve.testing.world import tokens

    world = traced(max_requests=2, steps_in_flight=steps_in_flight, runner=runner, host_blocks=5)
    world.serve(tokens(100))
    for seed in range(3):
        world.add(tokens(100, seed), output_tokens=50)
    for _ in range(5):
        world.step()
    world.scheduler.shutdown()
    records = world.lines("requests")
    reasons = [record["finish_reason"] for record in records]
    assert reasons == ["length", "unfinished", "unfinished", "unfinished"]
    assert [record["queue_s"] is None for record in records] == [False, False, False, True]
    assert_sources_add_up(world, records)
    blocks = {block["block"] for block in world.lines("blocks")}
    assert {b for r in records[:3] for b in r["hash_ids"][: 100 // 16]} == blocks & {
        b for r in records for b in r["hash_ids"]
    }
    world.scheduler.end_trace()  # without effect
    assert len(world.lines("requests")) == 4


def test_an_end_that_fails_ends_the_engine_all_the_same(traced, caplog_vllm):
    from vllm_pensieve.testing.world import tokens

    world = traced()
    world.add(tokens(100))
    world.scheduler.requests[
        "request-0"
    ].block_hashes = None  # as after a step that failed half way
    world.scheduler.shutdown()
    assert "the end of the trace could not be written" in caplog_vllm.text


def test_choices_of_one_request_are_one_turn_however_little_memory_there_is(traced):
    from vllm_pensieve.testing.world import tokens

    world = traced(blocks=24, max_requests=8, host_blocks=4)
    prompt = tokens(100)
    for index in range(8):
        request = world.request(prompt, output_tokens=40, name=f"{index}_p-12345678")
        request.external_req_id = "p"
        world.scheduler.add_request(request)
    world.drain()
    turn_2 = world.serve([*request.all_token_ids, *tokens(20, seed=1)])
    world.scheduler.shutdown()
    *choices, last = world.lines("requests")
    assert {record["parent_request_id"] for record in choices} == {"p-12345678"}
    assert sorted(record["choice"] for record in choices) == list(range(8))
    assert {record["turn"] for record in choices} == {1}
    assert any(record["preemptions"] for record in choices), "memory must be short"
    assert (last["request_id"], last["turn"], last["choice"]) == (turn_2.request_id, 2, 0)
    assert {record["session_id"] for record in [*choices, last]} == {"inferred-1"}
    assert_sources_add_up(world, [*choices, last])


def test_a_session_of_several_inputs_is_one_line_whose_sources_add_up(traced):
    from vllm_pensieve.testing.world import tokens

    world = traced()
    world.add(tokens(100), name="streamed", resumable=True)
    while world.scheduler.requests["streamed"].num_output_tokens < 4:
        world.step()
    for seed in (1, 2):
        world.add(tokens(50, seed), name="streamed", resumable=True)
        for _ in range(6):
            world.step()
    world.scheduler.shutdown()
    (record,) = world.lines("requests")
    assert record["prompt_tokens"] > 200 and record["turn"] == 1
    sources = ("resident", "swapped", "recovered", "new")
    assert sum(record[f"prompt_tokens_{s}"] for s in sources) == record["prompt_tokens"]


def test_each_engine_of_several_has_files_of_its_own(traced, tmp_path):
    first = traced()
    second = traced(scheduler=second_engine)
    for world in (first, second):
        world.scheduler.shutdown()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"t{engine}_{kind}.jsonl" for engine in ("", "_engine1") for kind in ("requests", "blocks")
    }


def second_engine(vllm_config, **options):
    """As vLLM makes the scheduler of a dense model's second engine: its rank is 0, only the index is its own."""
    vllm_config.parallel_config.data_parallel_index = 1
    return make_scheduler(vllm_config, **options)


def record_until_told(prefix, ready, obeys):
    """A process that writes a trace; told to stop it writes the rest, and then stays."""
    import msgspec

    class Numbered(msgspec.Struct):
        schema: int = 2

    writer = TraceWriter(prefix, 10**9)
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set() if obeys else None)
    ready.set()
    told.wait()
    writer.blocks([Numbered] * 200_000)
    writer.close()
    time.sleep(600)


def test_a_process_that_is_told_to_stop_is_waited_for_until_its_trace_is_written(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(
        target=record_until_told, args=(str(tmp_path / "t"), ready, True), daemon=True
    )
    process.start()
    try:
        assert ready.wait(120)
        wait_for_traces([process], 120)
        assert process.is_alive()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert (tmp_path / "t_blocks.jsonl").read_bytes() == b'{"schema":2}\n' * 200_000
    wait_for_traces([process], 120)  # one that has ended


def test_a_process_that_does_not_stop_is_not_waited_for_longer_than_that(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(
        target=record_until_told, args=(str(tmp_path / "t"), ready, False), daemon=True
    )
    process.start()
    try:
        assert ready.wait(120)
        wait_for_traces([process], 0.1)
        assert process.is_alive()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
