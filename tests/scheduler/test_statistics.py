"""vLLM's own counters with the plugin at work: every token of a prompt has one source, and all counters agree on it."""

import json

import pytest

KINDS = [(1, "v1"), (2, "v2")]
every_kind = pytest.mark.parametrize(("steps_in_flight", "runner"), KINDS)


def collect(world):
    from tests.scheduler.collected import Collected

    return Collected(world)


@every_kind
def test_what_comes_from_host_memory_is_an_external_hit(make_world, steps_in_flight, runner):
    from tests.scheduler.test_swapping import forget
    from vllm_pensieve.testing.world import tokens

    prompt = tokens(200)
    world = make_world(
        blocks=80,
        host_blocks=300,
        steps_in_flight=steps_in_flight,
        runner=runner,
        settings={"load_cost_flops_per_byte": 1e-9},
    )
    world.serve(prompt)
    world.swap_out()
    world.serve([*prompt[:64], 1], output_tokens=1)  # four blocks are resident again
    forget(world, prompt, [6, 7])
    counted = collect(world)
    request = world.serve([*prompt, *tokens(30, seed=5)])
    prefill = counted.prefills[request.request_id]
    assert (prefill.num_local_cached_tokens, prefill.num_external_cached_tokens) == (64, 96)
    assert (prefill.num_cached_tokens, prefill.num_computed_tokens) == (160, 70)
    assert counted.local == {"requests": 1, "queries": 230, "hits": 64} | NONE_PREEMPTED
    assert counted.external == {"requests": 1, "queries": 166, "hits": 96} | NONE_PREEMPTED
    assert counted.by_source == {"host": 96}


NONE_PREEMPTED = {"preempted_queries": 0, "preempted_hits": 0}


@every_kind
@pytest.mark.parametrize(
    ("policy", "host_blocks"), [("fcfs", 0), ("fcfs", 60), ("priority", 0), ("priority", 60)]
)
def test_counters_agree_under_retries_and_preemptions(
    make_world, tmp_path, steps_in_flight, runner, policy, host_blocks
):
    """Prompts that wait for memory are looked up at every step, and some requests are preempted several times."""
    from vllm_pensieve.testing.traffic import Traffic

    world = make_world(
        blocks=60,
        host_blocks=host_blocks,
        max_requests=6,
        step_tokens=64,
        steps_in_flight=steps_in_flight,
        runner=runner,
        policy=policy,
        whole_sequence_must_fit=False,
        settings={"admission_reserve": 0.0, "trace_prefix": str(tmp_path / "trace")},
    )
    counted = collect(world)
    traffic = Traffic(
        world,
        seed=5,
        requests=80,
        eviction_chance=0.2,
        abort_chance=0,
        preemption_chance=0.05,
        priorities=3 if policy == "priority" else 1,
    )
    counts = traffic.play()
    assert counts.finished == 80 and counts.wrong == 0 and counts.preempted > 5
    prompts = [request for request in world.requests if request.request_id in counted.prefills]
    assert len(prompts) == 80
    asked = sum(request.num_prompt_tokens for request in prompts)
    sources = world.scheduler.pensieve_stats.prompt_tokens
    assert sum(sources.values()) == counted.total("num_prompt_tokens") == asked
    assert counted.local["queries"] == asked and counted.local["requests"] == 80
    assert counted.local["hits"] == sources["resident"] == counted.total("num_local_cached_tokens")
    assert counted.total("num_external_cached_tokens") == sources["swapped"]
    assert counted.total("num_computed_tokens") == sources["recovered"] + sources["new"]
    if host_blocks:
        assert counted.external["requests"] == 80
        assert counted.external["queries"] == asked - sources["resident"]
        assert counted.external["hits"] == sources["swapped"] > 0
        assert counted.by_source == {"host": sources["swapped"]}
        assert counted.external["preempted_queries"] <= counted.local["preempted_queries"]
    told = [report["prompt_tokens"] for report in counted.reports]
    assert {s: sum(report[s] for report in told) for s in sources} == sources
    world.scheduler.shutdown()
    lines = [json.loads(line) for line in (tmp_path / "trace_requests.jsonl").open()]
    assert len(lines) == 80 and any(line["preemptions"] > 1 for line in lines)
    assert {s: sum(line[f"prompt_tokens_{s}"] for line in lines) for s in sources} == sources
    assert all(0 <= line["queue_s"] <= line["ttft_s"] <= line["e2e_s"] for line in lines)


def test_an_idle_engine_has_told_everything(make_world):
    from vllm_pensieve.testing.world import tokens

    world = make_world(blocks=40, host_blocks=60)
    counted = collect(world)
    for seed in range(4):
        world.serve(tokens(300, seed), output_tokens=40)
    evicted = world.scheduler.pensieve_stats.evictions
    told = [report["evictions"] for report in counted.reports]
    assert evicted["host"] > 0
    assert {to: sum(report[to] for report in told) for to in evicted} == evicted
    last = counted.reports[-1]
    assert last["blocks"]["free"] == world.pool.free_block_queue.empty_blocks
    assert last["blocks"]["swapped"] == world.swapper.host.only_copies
    assert last["host_blocks"] == 60


def test_blocks_that_cannot_be_loaded_are_counted(make_world):
    from vllm_pensieve.testing.world import tokens

    world = make_world(blocks=80, host_blocks=300)
    prompt = tokens(200)
    world.serve(prompt)
    world.swap_out()
    world.host.fail_loads = 1.0
    counted = collect(world)
    world.assert_answered(world.serve(prompt))
    failed = world.scheduler.pensieve_stats.failed_loads
    assert failed == world.host.failed_loads == 12
    assert sum(report["totals"]["failed_loads"] for report in counted.reports) == failed


def test_records_that_the_trace_lost_are_counted(make_world, tmp_path, monkeypatch):
    from queue import Full

    world = make_world(settings={"trace_prefix": str(tmp_path / "trace")})
    counted = collect(world)
    world.serve([1, 2, 3])
    assert counted.reports[-1]["totals"]["trace_records_lost"] == 0

    def full(entry):
        raise Full

    with monkeypatch.context() as patch:
        patch.setattr(world.scheduler._recorder._writer._queue, "put_nowait", full)
        world.serve([1, 2, 3])
    assert sum(report["totals"]["trace_records_lost"] for report in counted.reports) == 1
